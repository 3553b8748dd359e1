"""launch.beam_upscale on the DirectRunner: equal to the upscaler, and never half done."""

import json
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

import maskgit_sr
from maskgit_sr import images
from maskgit_sr.images import Picture
from maskgit_sr.methods.base import TileSpec
from tests.batch.folders import BATCH, save, stamps
from tests.inference.pictures import gradient, noise
from tests.serving.models import subpixel as two_sided

pytest.importorskip("apache_beam", reason="needs apache-beam")
from apache_beam.internal import pickler
from apache_beam.options.pipeline_options import PipelineOptions

from maskgit_sr.batch import command, listing, stages

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def photos(tmp_path):
    """Pictures of every kind, some of them in a sub-folder, and four that cannot be restored."""
    folder = tmp_path / "in"
    exif = Image.Exif()
    exif[271], exif[274] = "camera", 6  # which lies on its side
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    save(folder / "a.jpg", gradient(20, 33), exif=exif, icc_profile=icc)
    save(folder / "grey.png", gradient(9, 40)[..., 0])
    save(folder / "sub/alpha.png", noise(17, 12, 4))
    save(folder / "sub/one.png", noise(1, 1, 3))
    images.write(Picture(noise(26, 25, 3, np.uint16)), folder / "deep.png")
    (folder / "bad.jpg").write_bytes(b"no picture")
    (folder / "empty.png").touch()
    (folder / "cut.png").write_bytes((folder / "deep.png").read_bytes()[:-40])
    save(folder / "large.png", noise(50, 50, 3))
    return folder


GOOD = {"a.png", "grey.png", "deep.png", "sub/alpha.png", "sub/one.png"}


def test_results_are_those_of_the_upscaler_and_what_fails_is_listed(run, photos, upscaler):
    output = photos.parent / "out"
    code, told, errors = run("--input", photos, "--output", output, "--max_pixels", 2000)
    assert (code, told) == (1, "5 restored, 0 skipped, 4 failed\n")
    assert stamps(output).keys() == GOOD | {"failed.jsonl"}  # and no unfinished file

    for name in GOOD:
        [source] = photos.glob(name.replace("png", "*"))
        mine, its = images.read(output / name), upscaler.restore(images.read(source)).picture
        np.testing.assert_array_equal(mine.color, its.color)
        np.testing.assert_array_equal(mine.alpha, its.alpha)
        assert (mine.grey, mine.metadata.icc, mine.metadata.exif) == (
            its.grey,
            its.metadata.icc,
            its.metadata.exif,
        )
    assert images.read(output / "a.png").color.shape == (33 * 4, 20 * 4, 3)
    assert images.read(output / "deep.png").color.dtype == np.uint16

    failed = {}
    for line in (output / "failed.jsonl").read_text().splitlines():
        entry = json.loads(line)
        assert Path(entry["target"]).parent == output
        failed[Path(entry["source"]).name] = entry["reason"]
        assert f"launch.beam_upscale: {entry['source']}: {entry['reason']}" in errors
    assert len(errors) == len(failed) == 4
    assert failed["bad.jpg"].startswith("not a picture that can be decoded")
    assert failed["empty.png"] == "expected a picture, found an empty file"
    assert failed["cut.png"].startswith("damaged or truncated picture")
    assert failed["large.png"] == "50x50 is more than the limit of 2,000 pixels"


@pytest.mark.parametrize(
    ("options", "own"),
    [
        ({"scale": 2.5, "consistent": 3.0, "seed": 3, "temperature": 1.0}, {}),
        ({"scale": 2.5, "steps": 1, "seed": 3, "temperature": 1.0, "color_fix": "none"}, {}),
        ({}, {"plain": False}),
    ],
)
def test_options_reach_the_upscaler(run, tmp_path, upscaler, options, own):
    save(tmp_path / "in/a.png", gradient(18, 9))
    words = [f"--{name}={value}" for name, value in options.items()]
    words += [f"--option={name}={value}" for name, value in own.items()]
    words += ["--suffix=_big", "--format=tif"]
    code, _, errors = run("--input", tmp_path / "in", "--output", tmp_path / "out", *words)
    assert code == 0, errors
    expected = upscaler.restore(images.read(tmp_path / "in/a.png"), **options, **own)
    mine = images.read(tmp_path / "out/a_big.tif")
    np.testing.assert_array_equal(mine.color, expected.picture.color)


def test_a_method_of_another_scale_without_tokens_or_confidence(run_with, tmp_path):
    """With windows of two sides, in one run, and an option of its own."""
    doubling, folder = two_sided(BATCH), tmp_path / "in"
    for number, side in enumerate((5, 40, 9, 16, 90)):
        save(folder / f"{number}.png", noise(side, side + 3, 3, seed=number))
    words = ("--input", folder, "--output", folder, "--option", "noise=0.25", "--seed", 2)
    assert run_with(doubling, *words)[:2] == (0, "5 restored, 0 skipped, 0 failed\n")
    assert {lr.shape[1] for lr, _ in doubling.calls} == {16, 64}
    for number in range(5):
        expected = doubling.restore(images.read(folder / f"{number}.png"), noise=0.25, seed=2)
        mine = images.read(folder / f"{number}_x2.png")
        np.testing.assert_array_equal(mine.color, expected.picture.color)
    code, _, errors = run_with(doubling, *words, "--overwrite", "--steps", 3)
    assert (code, len(errors)) == (2, 1) and "expected one of color_fix" in errors[0]


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (9, 17), (64, 20), (65, 130)])
def test_an_image_weighs_its_tiles(tmp_path, size):
    doubling, path = two_sided(BATCH), tmp_path / "a.png"
    save(path, noise(*size, 3))
    tile = doubling.method.tile
    settings = stages.Settings("m", tile, 8, 1, None, None, 2.0, 0, {}, 10_000, False)
    [found] = stages.Read(settings).process(listing.Task(str(path), str(tmp_path / "out.png")))
    mosaic = doubling.mosaic(images.read(path), doubling.options())
    assert (found.side, found.tiles) == (mosaic.side, mosaic.count)


def test_what_is_there_is_skipped_and_failures_are_tried_again(run, tmp_path):
    folder, output = tmp_path / "in", tmp_path / "out"
    words = ("--input", folder, "--output", output)
    save(folder / "a.png", gradient(9, 9))
    (folder / "b.png").write_bytes(b"late")
    assert run(*words)[:2] == (1, "1 restored, 0 skipped, 1 failed\n")
    before = stamps(output)
    save(folder / "b.png", gradient(8, 8))
    (output / ".a.png.0123abcd.part").write_bytes(b"of a run that was killed")
    assert run(*words) == (0, "1 restored, 1 skipped, 0 failed\n", [])
    after = stamps(output)
    assert after.keys() == {"a.png", "b.png"} and after["a.png"] == before["a.png"]
    assert run(*words)[1] == "0 restored, 2 skipped, 0 failed\n"
    assert stamps(output) == after
    words = ("--input", f"{folder}/a*", *words[2:], "--overwrite")
    assert run(*words)[:2] == (0, "1 restored, 0 skipped, 0 failed\n")
    again = stamps(output)
    assert again["b.png"] == after["b.png"] and again["a.png"][0] > after["a.png"][0]
    assert again["a.png"][1] == after["a.png"][1]


def test_a_failed_write_is_listed_and_the_run_goes_on(run, tmp_path):
    folder, output = tmp_path / "in", tmp_path / "out"
    save(folder / "a.png", gradient(9, 9))
    save(folder / "sub/b.png", gradient(9, 9))
    save(folder / "c.png", noise(9, 9, 4))
    output.mkdir()
    (output / "sub").touch()  # where a folder should be
    code, told, _ = run("--input", folder, "--output", output, "--format", "jpg")
    assert (code, told) == (1, "1 restored, 0 skipped, 2 failed\n")
    assert stamps(output).keys() == {"a.jpg", "sub", "failed.jsonl"}
    entries = map(json.loads, (output / "failed.jsonl").read_text().splitlines())
    reasons = {Path(entry["source"]).name: entry["reason"] for entry in entries}
    assert reasons["b.png"].startswith("cannot be written (")
    assert reasons["c.png"] == "JPEG cannot hold transparency; use PNG or WebP"


def test_a_run_that_is_killed_goes_on_where_it_was(tmp_path, subpixel):
    """In processes of their own, the second with workers that are yet others."""
    folder, output = tmp_path / "in", tmp_path / "out"
    for number in range(60):
        save(folder / f"{number:02}.png", noise(10 + number, 16, 3, seed=number))
    words = ["--input", str(folder), "--output", str(output), "--model", str(subpixel)]
    command = [sys.executable, "-m", "launch.beam_upscale", *words]
    process = subprocess.Popen(command, cwd=ROOT, text=True, stderr=subprocess.PIPE)
    while process.poll() is None and not list(output.glob("*.png")):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
    before = {name: stamp for name, stamp in stamps(output).items() if name.endswith(".png")}
    assert 0 < len(before) < 60

    command += ["--direct_running_mode", "multi_processing"]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    told = f"{60 - len(before)} restored, {len(before)} skipped, 0 failed\n"
    assert (done.returncode, done.stdout) == (0, told), done.stderr
    after = stamps(output)
    assert after.keys() == {f"{number:02}.png" for number in range(60)}
    assert {name: after[name] for name in before} == before  # none was written twice
    upscaler = maskgit_sr.load(subpixel, batch=1)
    for name in after:  # and none is half
        expected = upscaler.restore(images.read(folder / name)).picture.color
        np.testing.assert_array_equal(images.read(output / name).color, expected)


def test_workers_get_names_and_settings_only():
    """By name, so that pickles are small and a worker runs the code of its own image."""
    tile = TileSpec((16, 64), 8)
    settings = stages.Settings("m", tile, 8, None, None, None, 2.0, 0, {"steps": 3}, 10, False)
    for part in (stages.Read(settings), stages.Restorer(settings), stages.Write()):
        for dumps, loads in ((pickle.dumps, pickle.loads), (pickler.dumps, pickler.loads)):
            found = dumps(part)
            assert len(found) < 2000 and type(loads(found)) is type(part)
    assert loads(pickler.dumps(stages.Read(settings)))._settings == settings


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--scale 17", "scale: expected above 0 and at most 16, found 17"),
        ("--steps 0", "steps: expected at least 1, found 0"),
        ("--batch 0", "--batch: expected at least 1, found 0"),
        ("--consistent nan", "--consistent: expected more than 0 and at most 255, found nan"),
        ("--consistent 1 --format jpg", "--consistent: expected --format png or tif, found 'jpg'"),
        ("--consistent 1 --scale 0.5", "--consistent: expected a --scale of at least 1, found 0.5"),
        ("--max_pixels 0", "--max_pixels: expected 1 to 64000000, found 0"),
        ("--color_fix blue", "color_fix: expected one of adain, wavelet, none"),
        (
            "--model other",
            "model: expected a path or one of realsrt-nano, realsrt-small, sr3-nano, srmap-nano, "
            "found 'other'",
        ),
        ("--device tpu", "device: no tpu here; JAX sees cpu"),
        ("--device abacus", "--device: expected one of cpu, gpu, tpu, found 'abacus'"),
        ("--option plain", "--option: expected NAME=VALUE, found 'plain'"),
        ("--option alpha=1", "alpha: nearest has no such option; expected one of"),
        ("--option steps=1.5", "steps: expected a whole number, found '1.5'"),
        ("--option confidence=true", "confidence: nearest has no such option"),
        ("--sclae 2", "--sclae: neither an option of this command nor of Beam"),
        ("--direct_num_workers x", "argument --direct_num_workers: invalid int value: 'x'"),
        ("--runner Walker", "--runner: Unexpected pipeline runner: Walker"),
        ("--runner DataflowRunner", "--runner: Pipeline has validations errors: Missing"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(run, tmp_path, words, message):
    save(tmp_path / "in/a.png", gradient(9, 9))
    output = tmp_path / "out"
    code, told, errors = run("--input", tmp_path / "in", "--output", output, *words.split())
    assert (code, told, len(errors)) == (2, "", 1), errors
    assert errors[0].startswith(f"launch.beam_upscale: {message}")
    assert not output.exists()


def test_a_missing_extra_is_one_line(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam.io.filesystems", None)
    code, _, errors = run("--input", tmp_path, "--output", tmp_path)
    assert (code, len(errors)) == (2, 1)
    assert "Apache Beam is missing: pip install 'maskgit-sr[beam]'" in errors[0]


def test_no_option_is_taken_from_beam():
    mine = {action.dest for action in command.parser()._actions}
    assert not mine & PipelineOptions([]).get_all_options().keys()


def test_a_bucket_is_a_folder(run, tmp_path, monkeypatch):
    storage = pytest.importorskip("google.cloud.storage", reason="needs google-cloud-storage")
    emulator = pytest.importorskip("gcp_storage_emulator.server", reason="needs the emulator")
    port = pytest.importorskip("portpicker").pick_unused_port()
    server = emulator.create_server("localhost", port, in_memory=True, default_bucket="bucket")
    server.start()
    try:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://localhost:{port}")
        bucket = storage.Client.create_anonymous_client().bucket("bucket")
        save(tmp_path / "a.png", gradient(9, 9))
        data = (tmp_path / "a.png").read_bytes()
        for name in ("photos/a.png", "photos/sub/b.png", "photos/sub/.c.png"):
            bucket.blob(name).upload_from_string(data)
        bucket.blob("photos/bad.jpg").upload_from_string(b"no picture")
        words = ("--input", "gs://bucket/photos", "--output", "gs://bucket/out/", "--no_auth")
        code, told, errors = run(*words)
        assert (code, told) == (1, "2 restored, 0 skipped, 1 failed\n"), errors
        assert errors[0].startswith("launch.beam_upscale: gs://bucket/photos/bad.jpg: not a pict")
        made = {blob.name: blob for blob in bucket.list_blobs(prefix="out/")}
        assert made.keys() == {"out/a.png", "out/sub/b.png", "out/failed.jsonl"}
        assert made["out/a.png"].content_type == "image/png"
        run("--input", tmp_path / "a.png", "--output", tmp_path / "out")
        assert made["out/sub/b.png"].download_as_bytes() == (tmp_path / "out/a.png").read_bytes()
        assert run(*words)[1] == "0 restored, 2 skipped, 1 failed\n"
        one = ("--input", "gs://bucket/photos/sub/b.png", "gs://bucket/photos/s*/b*", *words[2:])
        assert run(*one)[1] == "1 restored, 0 skipped, 0 failed\n"
        assert bucket.blob("out/b.png").exists()
        for name in ("in [x]/1.jpg", "in [x]/1.png", "in [x]/[2]*.png", "in x/3.png"):
            bucket.blob(name).upload_from_string(data)
        others = ("out x/.b.12345678.part", "out x/failed.jsonl", "out [x]/.c.12345678.part")
        for name in others:
            bucket.blob(name).upload_from_string(b"of another run")
        words = ("--input", "gs://bucket/in [x]", "--output", "gs://bucket/out [x]", "--no_auth")
        assert run(*words)[:2] == (0, "3 restored, 0 skipped, 0 failed\n")
        assert run(*words)[:2] == (0, "0 restored, 3 skipped, 0 failed\n")
        made = {blob.name for blob in bucket.list_blobs(prefix="out ")}
        twins = {"out [x]/1.jpg.png", "out [x]/1.png.png", "out [x]/[2]*.png"}
        assert made == twins | {*others}
        # Beam cannot delete a name that it takes for a pattern
        assert bucket.blob(others[2]).download_as_bytes() == b""
        assert bucket.blob(others[0]).download_as_bytes() == b"of another run"
        for text in ("in [x]/1.jpg", "in [x]/[2]*.png"):  # alike in every run
            told = run("--input", f"gs://bucket/{text}", *words[2:])
            assert told[1] == "0 restored, 1 skipped, 0 failed\n"
    finally:
        server.stop()
