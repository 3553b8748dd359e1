"""Eight fake CPU devices, a RealSRT that compiles in seconds, and the folder beside the repo."""

import os
from importlib.metadata import version
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
# The networks are tiny; compiling is what takes long. The older emitters of loops take a third less
# of it; later versions have one kind only, and XLA ends on a flag that it does not know.
os.environ["XLA_FLAGS"] = " ".join(
    (
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        "--xla_backend_optimization_level=0",
        *(["--xla_cpu_use_fusion_emitters=false"] if version("jaxlib") < "0.11" else []),
    )
)

import jax
import pytest
from etils import epath
from etils.epath import backend
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import settings

from maskgit_sr import bundles
from maskgit_sr.arrays import Params
from maskgit_sr.methods.base import TileSpec
from maskgit_sr.methods.realsrt import RealSRT, RealSRTConfig, RealSRTLosses
from maskgit_sr.methods.subpixel import Subpixel
from maskgit_sr.models.discriminator import DiscriminatorConfig
from maskgit_sr.models.transformer import TransformerConfig
from maskgit_sr.models.vqgan import VQGANConfig
from tests.methods.small import random_params

# Every promotion of dtypes or ranks is written out: a silent one hides a float32 that was meant to
# be bfloat16, or a broadcast over the wrong axis.
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

settings.register_profile("no deadline", deadline=None)  # how fast a machine is proves nothing
settings.load_profile("no deadline")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that parallel workers end together."""
    long = ("training", "launch", "configs", "methods", "convert")
    items.sort(key=lambda item: item.path.parent.name not in long)


@pytest.fixture(scope="session", autouse=True)
def compilations(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Equal programs are compiled once a session: a resumed run makes the same ones again."""
    folder = str(tmp_path_factory.mktemp("xla"))
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder  # for the commands that tests start
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of photographs and perceptual nets beside the repository."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("needs ../shared beside the repository")
    return folder


@pytest.fixture(scope="session")
def tiny() -> RealSRTConfig:
    """A 16-pixel LR tile, an 8×8 token grid, 16 codes; every part of RealSRT is there."""
    transformer = dict(
        dim=32, heads=2, head_dim=16, encoder_depth=1, decoder_depth=1, code_width=16, grid=(8, 8)
    )
    return RealSRTConfig(
        tokenizer=VQGANConfig(
            channels=(32, 32),
            patch=4,
            encoder_blocks=1,
            decoder_blocks=1,
            encoder_bottom=0,
            decoder_bottom=0,
            code_width=16,
            codes=16,
        ),
        generator=TransformerConfig(outputs=16, **transformer),
        critic=TransformerConfig(outputs=1, masked=False, **transformer),
        tile=TileSpec(sides=(16,), overlap=8),
    )


@pytest.fixture(scope="session")
def losses() -> RealSRTLosses:
    """Training losses that need no file."""
    return RealSRTLosses(
        perceptual="none",
        perceptual_weight=0.0,
        control_steps=2,
        discriminator=DiscriminatorConfig(filters=8, layers=1),
    )


@pytest.fixture(scope="session")
def method(tiny: RealSRTConfig, losses: RealSRTLosses) -> RealSRT:
    """The method of `tiny`."""
    return RealSRT(tiny, losses)


@pytest.fixture(scope="session")
def subpixel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the worked example: x2, without tokens and without confidence."""
    method = Subpixel()
    params, _ = method.init(jax.random.key(0), method.groups)
    path = tmp_path_factory.mktemp("subpixel") / "subpixel.safetensors"
    metadata = bundles.Metadata(method.name, method.describe(), method.scale)
    bundles.write(path, jax.device_get(params), metadata)
    return path


@pytest.fixture(scope="session")
def params(method: RealSRT) -> Params:
    """Random parameters of every bundle group, none of them zero."""
    return random_params(method)


@pytest.fixture(scope="session")
def bundle(method: RealSRT, params: Params, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of `method` and `params`."""
    path = tmp_path_factory.mktemp("bundle") / "tiny.safetensors"
    metadata = bundles.Metadata(method.name, method.describe(), method.scale)
    bundles.write(path, jax.device_get(params), metadata)
    return path


class Bucket(MemoryFileSystem):
    """What fsspec would reach behind gs://, in memory."""

    protocol = ("gcs", "gs")
    store: dict = {}  # noqa: RUF012  # shared by all instances, as a bucket is
    pseudo_dirs = [""]  # noqa: RUF012

    def __init__(self, *args, finalize_on_close=True, **options):
        super().__init__(*args, **options)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> epath.Path:
    """An empty bucket gs://bucket."""
    Bucket.store.clear()
    made = Bucket()
    # not through fsspec's registry: epath keeps what it once found there, for every later test
    kind = type(backend.fsspec_backend)
    known = kind._get_filesystem
    monkeypatch.setattr(
        kind, "_get_filesystem", lambda self, name: made if name == "gcs" else known(self, name)
    )
    return epath.Path("gs://bucket")
