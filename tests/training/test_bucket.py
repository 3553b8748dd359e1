"""A workdir at gs://: real clients (gcsfs, TensorStore) against a bucket on this machine."""

import json

import jax
import ml_dtypes
import numpy as np
import pytest
from etils import epath

from configs import common
from maskgit_sr import bundles
from maskgit_sr.errors import UserError
from maskgit_sr.inference import load
from maskgit_sr.methods.subpixel import Subpixel
from maskgit_sr.models.functional import flatten
from maskgit_sr.training import lock, writer
from maskgit_sr.training.loop import Trainer

pytest.importorskip("gcsfs", reason="needs gcsfs")
storage = pytest.importorskip("gcp_storage_emulator.server", reason="needs gcp-storage-emulator")
portpicker = pytest.importorskip("portpicker")

# aiohttp's, on how gcsfs sends an object of a megabyte; it appears once a process
pytestmark = pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")


def with_generation(download):
    """The header by which TensorStore knows one version of an object from the next."""

    def answer(request, response, storage, *args, **kwargs):
        download(request, response, storage, *args, **kwargs)
        if response.status < 300:
            name = (request.params[key] for key in ("bucket_name", "object_id"))
            response["x-goog-generation"] = storage.get_file_obj(*name)["generation"]

    return answer


@pytest.fixture(scope="module")
def bucket():
    """gs://bucket, in memory."""
    from gcp_storage_emulator.handlers import objects

    port = portpicker.pick_unused_port()
    server = storage.create_server("localhost", port, in_memory=True, default_bucket="bucket")
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objects, "download", with_generation(objects.download))
        for name in ("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL"):
            patch.setenv(name, f"http://localhost:{port}")
        yield epath.Path("gs://bucket")
    server.stop()


@pytest.fixture(scope="module")
def train(batches):
    """Six steps of a filter in a workdir, or those that the time allows."""

    def train(workdir, seconds=float("inf"), **changes):
        config = common.base()
        settings = common.stage(6, 8, common.optimizer(3e-3, 1e-3), crop=32, ema=0.9)
        config.stages = {"pretrain": settings}
        config.update(log_every=1, checkpoint_every=3, **changes)
        data, panel = batches(scale=2), next(batches(scale=2))
        return Trainer(Subpixel(), "pretrain", config, workdir, data, None, panel).run(seconds)

    return train


def test_a_run_in_a_bucket_is_that_of_a_folder(bucket, train, tmp_path):
    whole = train(tmp_path)
    assert train(bucket / "run", seconds=0).step == 0
    assert sorted(path.name for path in (bucket / "run/pretrain/checkpoints").iterdir()) == ["0"]
    outcome = train(bucket / "run")
    assert outcome.finished and str(outcome.groups) == "gs://bucket/run/pretrain/groups.safetensors"
    expected, metadata = bundles.read(whole.groups)
    params, found = bundles.read(outcome.groups)
    assert found.config == metadata.config and found.training["pretrain"]["steps"] == 6
    expected = flatten(expected)
    for name, array in flatten(params).items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)
    folder = bucket / "run" / "pretrain"
    lines = (folder / "scalars.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    events = [path for path in folder.iterdir() if path.name.startswith("events.")]
    assert any(b"output-hr" in path.read_bytes() for path in events)
    assert not [path for path in folder.iterdir() if path.name.startswith(".groups")]


def test_a_damaged_checkpoint_in_a_bucket_is_kept_under_another_name(bucket, train):
    train(bucket / "spoilt")
    folder = bucket / "spoilt" / "pretrain" / "checkpoints"
    (folder / "6" / "data" / "process_0-of-1.json").write_text("")
    outcome = train(bucket / "spoilt")
    assert outcome.first == 3 and outcome.finished
    assert sorted(path.name for path in folder.iterdir()) == ["3", "6", "damaged-6"]
    assert (folder / "damaged-6" / "data" / "process_0-of-1.json").exists()


def test_the_lock_of_a_workdir_in_a_bucket(bucket):
    with lock.held(bucket / "locked"):
        with (
            pytest.raises(UserError, match="a trainer runs there already"),
            lock.held(bucket / "locked"),
        ):
            pass
        assert (bucket / "locked" / lock.NAME).exists()
    with lock.held(bucket / "locked"):
        pass
    assert not (bucket / "locked" / lock.NAME).exists()


def test_another_run_starts_from_a_bundle_in_a_bucket(bucket, train, tmp_path):
    first = train(bucket / "first")
    begun = train(tmp_path, seconds=0, init=str(first.groups))
    params, _ = bundles.read(begun.groups)
    expected = flatten(bundles.read(first.groups)[0])
    for name, array in flatten(params).items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


def test_a_model_in_a_bucket_is_loaded(bucket, method, params):
    metadata = bundles.Metadata("realsrt", method.describe(), method.scale)
    path = bucket / "model.safetensors"
    bundles.write(path, jax.device_get(params), metadata, ml_dtypes.bfloat16, method.exact)
    loaded = flatten(load.load("gs://bucket/model.safetensors").params)
    assert loaded.keys() == flatten(bundles.read(path)[0]).keys()
    for name in (name for name in loaded if name.startswith("codebook/")):
        np.testing.assert_array_equal(loaded[name], flatten(params)[name])
    with pytest.raises(UserError, match=r"^gs://bucket/none\.safetensors: no such bundle$"):
        load.load("gs://bucket/none.safetensors")


def test_logs_reach_the_bucket_while_training_goes_on(bucket, monkeypatch):
    monkeypatch.setattr(writer, "_SECONDS", -1.0)
    monkeypatch.setattr(writer, "_BYTES", 1)
    folder = bucket / "logs"
    for step in (1, 2):  # a second start goes on in the same lines
        log = writer.Writer(folder)
        local = log.folder
        log.scalars(step, {"loss": 0.5})
        assert len((folder / "scalars.jsonl").read_text().splitlines()) == step
        (local / "profile").mkdir()
        (local / "profile" / "trace").write_bytes(b"trace")
        log.close()
        assert not local.exists()
    assert (folder / "profile" / "trace").read_bytes() == b"trace"
    # every event file is full at once here, so each start leaves two
    assert len([path for path in folder.iterdir() if path.name.startswith("events.")]) == 4


def test_a_bucket_out_of_reach_costs_no_log(bucket, monkeypatch, caplog):
    log = writer.Writer(bucket / "lost")
    log.scalars(1, {"loss": 0.5})

    def unreachable(*_, **__):
        raise ConnectionError("no route")

    with monkeypatch.context() as patch:
        patch.setattr(type(log._bucket), "mkdir", unreachable)
        log.close()
    assert "no route" in caplog.text
    assert json.loads((log.folder / "scalars.jsonl").read_text()) == {"step": 1, "loss": 0.5}
