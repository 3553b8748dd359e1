"""Adapters to the public PyTorch code of RealSRT, of ITER and of Real-ESRGAN's degradation.

Needs checkouts of https://github.com/USTC-JialunPeng/RealSRT, of
https://github.com/chaofengc/ITER (for non-commercial use only), or of
https://github.com/XPixelGroup/BasicSR and https://github.com/xinntao/Real-ESRGAN, and an
environment that has PyTorch beside this package (``pip install "maskgit-sr[convert]" einops``).
Their packages import training frameworks that are not used here; those are replaced by empty
modules, and torchvision's conversion to grey by one here. The modules that compute are the
checkouts' own.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import random
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from maskgit_sr.errors import UserError

PRECISIONS = ("float32", "tf32", "float16", "bfloat16")
STEPS = 4


def _module(name: str, path: Path | None = None, **contents: Any) -> Any:
    """Makes a package of one folder, or an empty one, and registers it in sys.modules."""
    made: Any = types.ModuleType(name)
    made.__path__ = [] if path is None else [str(path)]
    vars(made).update(contents)
    sys.modules[name] = made
    return made


def _torch(threads: int) -> Any:
    """Returns PyTorch with ``threads`` threads, its own number for 0.

    Raises:
        UserError: PyTorch or einops cannot be imported.
    """
    try:
        import einops  # noqa: F401
        import torch
    except ImportError as error:
        raise UserError(f"--reference needs PyTorch and einops: {error}") from error
    if threads:
        torch.set_num_threads(threads)
    return torch


class _Registry:
    def register(self) -> Any:
        return lambda item: item


class RealSRT:
    """The published network with random weights, on a GPU if PyTorch sees one.

    Attributes:
        where: ``cuda`` or ``cpu``.
        state: weights by the names of a checkpoint, which `maskgit_sr.convert.realsrt` reads.

    Args:
        folder: checkout of RealSRT.
        threads: CPU cores for PyTorch; 0: its own choice.

    Raises:
        UserError: the folder is no such checkout, or PyTorch or einops cannot be imported.
    """

    def __init__(self, folder: Path, threads: int = 0):
        if not (folder / "realsrt" / "archs" / "realsrt_arch.py").is_file():
            raise UserError(f"--reference: expected a checkout of RealSRT, found {folder}")
        self.torch = torch = _torch(threads)
        self.where = "cuda" if torch.cuda.is_available() else "cpu"
        for name in ("basicsr", "basicsr.utils"):
            _module(name)
        _module("basicsr.utils.registry", ARCH_REGISTRY=_Registry())
        _module("realsrt", folder / "realsrt")
        _module("realsrt.archs", folder / "realsrt" / "archs")
        np.float = float  # type: ignore[attr-defined]  # gone since NumPy 1.24
        if self.where == "cpu":  # the code copies its codebook through a GPU
            self.torch.Tensor.cuda = lambda tensor, *args, **kwargs: tensor
        self._code = importlib.import_module("realsrt.archs.realsrt_arch")
        torch.manual_seed(0)
        network = self._code.RealSRT(use_critic=True, use_ccm=True)
        self._network = network.eval().to(self.where)
        self.state = {name: value.cpu().numpy() for name, value in network.state_dict().items()}

    @property
    def precisions(self) -> tuple[str, ...]:
        """Usable ones of ``PRECISIONS``: on CPUs PyTorch takes minutes a tile in half precision."""
        return PRECISIONS if self.where == "cuda" else PRECISIONS[:1]

    def restore(self, tiles: np.ndarray, precision: str, batch: int) -> np.ndarray:
        """Returns LR tiles, float32 [n, 64, 64, 3] in [0, 1], restored, float32 [n, 256, 256, 3].

        Args:
            precision: ``float32``, as the public code runs, has PyTorch's own settings; ``tf32``
                allows TF32 in matrix products too, as JAX does; the others are PyTorch's autocast
                of the network without the colour correction.
            batch: tiles a call of the network.
        """
        parts = []
        with self.torch.no_grad(), self._precision(precision) as autocast:
            for start in range(0, len(tiles), batch):
                part = np.ascontiguousarray(tiles[start : start + batch].transpose(0, 3, 1, 2))
                lr = self.torch.from_numpy(part).to(self.where)
                with autocast:
                    image = self._network.forward_with_ccm(lr, STEPS)
                image = self._code.adaptive_instance_normalization(image.float(), lr)
                parts.append(image.cpu().numpy().transpose(0, 2, 3, 1))
        return np.concatenate(parts)

    @functools.cached_property
    def flops(self) -> float:
        """FLOPs of one tile, counted by PyTorch's own counter while it restores one."""
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            self.restore(np.zeros((1, 64, 64, 3), np.float32), "float32", 1)
        return float(counter.get_total_flops())

    @contextlib.contextmanager
    def _precision(self, precision: str) -> Iterator[Any]:
        half = getattr(self.torch, precision) if precision in PRECISIONS[2:] else None
        before = self.torch.get_float32_matmul_precision()
        # A global setting, put back for whoever uses PyTorch next.
        self.torch.set_float32_matmul_precision("high" if precision == "tf32" else before)
        try:
            yield self.torch.autocast(self.where, dtype=half, enabled=half is not None)
        finally:
            self.torch.set_float32_matmul_precision(before)


class ITER:
    """The released ×4 network with random weights, on the CPU.

    Attributes:
        state: weights by the names of a checkpoint, which `maskgit_sr.convert.iter` reads.

    Args:
        folder: checkout of ITER.
        threads: CPU cores for PyTorch; 0: its own choice.

    Raises:
        UserError: the folder is no such checkout, or PyTorch or einops cannot be imported.
    """

    def __init__(self, folder: Path, threads: int = 0):
        archs = folder / "basicsr" / "archs"
        if not (archs / "iter_arch.py").is_file():
            raise UserError(f"--reference: expected a checkout of ITER, found {folder}")
        self.torch = torch = _torch(threads)
        for name in ("basicsr", "basicsr.utils", "timm", "timm.models"):
            _module(name)
        _module("basicsr.utils.registry", ARCH_REGISTRY=_Registry())
        _module("turtle", forward=None)
        _module(
            "timm.models.layers",
            DropPath=torch.nn.Identity,
            to_2tuple=lambda x: x if isinstance(x, tuple) else (x, x),
            trunc_normal_=torch.nn.init.trunc_normal_,
        )
        _module("basicsr.archs", archs)
        shape = dict(
            in_channels=3, emb_dim=128, resolution=[256, 256], nf=128, ch_mult=[1, 2, 2, 4],
            global_blks="swin", swin_dim=256, swin_window=8, swin_blk_depth=6, swin_blk_num=1,
        )  # fmt: skip
        torch.manual_seed(0)
        code = importlib.import_module("basicsr.archs.iter_arch")
        network = code.ITER(
            codebook_params=[[32, 512, 128]],
            vqgan_opt=dict(ddconfig=shape, n_embed=512, embed_dim=128),
            LQ_stage=True,
            scale_factor=4,
        )
        self._network = network.eval()
        self.state = {name: value.numpy() for name, value in network.state_dict().items()}

    def restore(self, lr: np.ndarray, alpha: float, steps: int) -> np.ndarray:
        """Returns an LR image, float32 [1, H, W, 3] in [0, 1], restored, [1, 4H, 4W, 3]."""
        self._network.set_sample_params(steps, 1.0, 1.0, alpha, "linear")
        with self.torch.no_grad():
            found = self._network.test(self.torch.from_numpy(lr.transpose(0, 3, 1, 2).copy()))
        image = found[0] if isinstance(found, tuple) else found
        image = image[-1] if isinstance(image, list) else image
        return np.asarray(image.numpy().transpose(0, 2, 3, 1))


class RealESRGAN:
    """Real-ESRGAN's dataset and `feed_data` on the CPU, one image at a time.

    Attributes:
      degradations: BasicSR's module of kernels and noises.
      processing: BasicSR's module of `filter2D` and USM sharpening.

    Args:
      basicsr, realesrgan: folders of the two checkouts.
      crop: side of the HR crops in pixels; the public code fixes 400.
      scale: HR side over LR side.

    Raises:
      FileNotFoundError: a folder is no such checkout.
    """

    def __init__(self, basicsr: Path, realesrgan: Path, crop: int = 400, scale: int = 4):
        import torch
        import yaml

        settings = realesrgan / "options" / "train_realesrgan_x4plus.yml"
        for path in (basicsr / "basicsr" / "data" / "degradations.py", settings):
            if not path.is_file():
                raise FileNotFoundError(f"not a checkout of the public code: {path} is missing")
        utils = _replace_frameworks(basicsr, realesrgan)
        self.torch: Any = torch
        self.degradations = importlib.import_module("basicsr.data.degradations")
        self.processing = importlib.import_module("basicsr.utils.img_process_util")
        diffjpeg = importlib.import_module("basicsr.utils.diffjpeg")
        utils.DiffJPEG, utils.USMSharp = diffjpeg.DiffJPEG, self.processing.USMSharp
        dataset = importlib.import_module("realesrgan.data.realesrgan_dataset").RealESRGANDataset
        model = importlib.import_module("realesrgan.models.realesrgan_model").RealESRGANModel

        options = yaml.safe_load(settings.read_text().replace("!!float", ""))
        options.update(scale=scale, gt_size=crop)  # the whole crop: LR is what is compared
        kernels = options["datasets"]["train"]
        kernels.update(use_hflip=False, use_rot=False)
        pulse = torch.zeros(21, 21)
        pulse[10, 10] = 1
        self._dataset = dataset.__new__(dataset)
        vars(self._dataset).update(
            kernels,
            opt=kernels,
            file_client=types.SimpleNamespace(get=lambda path, client: self._image),
            paths=[""],
            kernel_range=list(range(7, 22, 2)),
            pulse_tensor=pulse,
        )
        self._model = model.__new__(model)
        vars(self._model).update(
            opt=options,
            is_train=True,
            device="cpu",
            jpeger=diffjpeg.DiffJPEG(differentiable=False),
            usm_sharpener=self.processing.USMSharp(),
            _dequeue_and_enqueue=lambda: None,  # mixes examples, computes nothing
        )

    def degrade(self, image: np.ndarray) -> np.ndarray:
        """Returns LR, uint8 [crop/scale, crop/scale, 3], of HR, uint8 [crop, crop, 3], RGB.

        Draws from the global generators of `random`, NumPy and torch, as the public code does. One
        image a call: within a batch the public code shares resize factors, and on the CPU it fails
        on the memory layout that torch gives resized batches.
        """
        self._image = image[..., ::-1]  # takes the place of a file's encoded bytes
        example = self._dataset[0]
        names = ("gt", "kernel1", "kernel2", "sinc_kernel")
        self._model.feed_data({name: example[name][None] for name in names})
        return np.round(self._model.lq[0].numpy().transpose(1, 2, 0) * 255).astype(np.uint8)

    def use_separable_sharpening(self) -> None:
        """Sharpens by the public code's OpenCV function instead of its 51×51 convolution: the same
        within rounding (checked by `benchmarks.degradation_fidelity`), in half the time."""

        def sharpen(image: Any) -> Any:
            rows = image[0].numpy().transpose(1, 2, 0)
            return self.torch.from_numpy(self.processing.usm_sharp(rows).transpose(2, 0, 1))[None]

        self._model.usm_sharpener = sharpen

    def seed(self, seed: int) -> None:
        """Seeds the global generators of `random`, NumPy and torch."""
        random.seed(seed)
        np.random.seed(seed)
        self.torch.manual_seed(seed)


def _replace_frameworks(basicsr: Path, realesrgan: Path) -> Any:
    """Registers what the degradation needs of its packages; returns the stub of basicsr.utils."""
    import torch

    def grey(image: Any, num_output_channels: int = 1) -> Any:
        weights = torch.tensor([0.2989, 0.587, 0.114], dtype=image.dtype).view(1, 3, 1, 1)
        return (image * weights).sum(1, keepdim=True)

    def tensors(images: list[np.ndarray], bgr2rgb: bool, float32: bool) -> list[Any]:
        return [torch.from_numpy(i[..., ::-1].transpose(2, 0, 1).copy()) for i in images]

    _module("torchvision")
    _module("torchvision.transforms")
    _module("torchvision.transforms.functional", rgb_to_grayscale=grey)
    _module("basicsr", basicsr / "basicsr")
    _module("basicsr.data", basicsr / "basicsr" / "data")
    _module("basicsr.models")
    _module("basicsr.models.srgan_model", SRGANModel=object)
    _module("basicsr.utils.registry", DATASET_REGISTRY=_Registry(), MODEL_REGISTRY=_Registry())
    _module("realesrgan", realesrgan / "realesrgan")
    for name in ("data", "models"):
        _module(f"realesrgan.{name}", realesrgan / "realesrgan" / name)
    return _module(
        "basicsr.utils",
        basicsr / "basicsr" / "utils",
        FileClient=None,
        get_root_logger=None,
        imfrombytes=lambda image, float32: image.astype(np.float32) / np.float32(255),
        img2tensor=tensors,
    )
