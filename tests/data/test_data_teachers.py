"""data.teachers: commands, bundles and ncnn files, and the mean of several."""

import shlex
import subprocess
import sys

import cv2
import numpy as np
import pytest

from data import teachers
from maskgit_sr.errors import UserError

# Repeats every pixel; words behind the two folders change what it does.
SCRIPT = """
import sys
from pathlib import Path

import cv2

source, target, scale, *words = sys.argv[1:]
names = sorted(Path(source).iterdir())
for path in names[len(words):]:
    image = cv2.imread(str(path)).repeat(int(scale), 0).repeat(int(scale), 1)
    cv2.imwrite(str(Path(target) / path.name), image)
if "fail" in words:
    sys.exit("first line\\nno such device")
"""

UP = "7767517\n2 2\nInput data 0 1 data\nInterp up 1 1 data output 0=1 1=4.0 2=4.0\n"


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(256, size=(height, width, 3), dtype=np.uint8)


def repeated(image, scale=4):
    return image.repeat(scale, 0).repeat(scale, 1)


@pytest.fixture
def repeat(tmp_path):
    """Returns the text of a command that enlarges a folder, with so many words behind it."""
    script = tmp_path / "it's a script.py"
    script.write_text(SCRIPT)

    def text(scale=4, *words):
        run = shlex.join([sys.executable, str(script)])
        return f"command:{run} {{input}} {{output}} {scale} {shlex.join(words)}"

    return text


IMAGES = [noise(5, 7), noise(6, 4, 1), noise(1, 1, 2)]


def test_a_command_restores_a_folder(repeat):
    # Other braces are the shell's.
    text = repeat() + "&& for name in {a..b}; do echo ${name}; done"
    outputs = teachers.open_teacher(text)(IMAGES)
    assert len(outputs) == len(IMAGES)
    for image, output in zip(IMAGES, outputs, strict=True):
        assert output.dtype == np.float32
        np.testing.assert_array_equal(output, repeated(image).astype(np.float32) / 255)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((4, "one"), r"expected 3 pictures in \{output\}, found 2$"),
        ((4, "one", "two", "three"), r"expected 3 pictures in \{output\}, found 0$"),
        ((4, "fail"), r"teacher's command ended with code 1: no such device$"),
    ],
)
def test_a_command_that_does_not_do_it_is_one_line(repeat, arguments, message):
    with pytest.raises(UserError, match=message) as error:
        teachers.open_teacher(repeat(*arguments))(IMAGES)
    assert "\n" not in str(error.value)


def test_a_silent_failure_says_so():
    with pytest.raises(UserError, match="ended with code 3: no message"):
        teachers.open_teacher("command:true {input} {output}; exit 3")(IMAGES)
    with pytest.raises(UserError, match="ended with code 4: "):  # not UTF-8
        teachers.open_teacher(r"command:printf '\351' >&2; : {input} {output}; exit 4")(IMAGES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected ncnn:…, bundle:…, command:…, or hr alone"),
        ("hr", "expected ncnn:…"),
        ("realsrt-small", "expected ncnn:…"),
        ("onnx:net", "teacher 'onnx:net': expected ncnn:…"),
        ("bundle:", "expected ncnn:…"),
        ("command:true", r"expected \{input\} and \{output\}"),
        ("command:cp {input}/* out", r"expected \{input\} and \{output\}"),
    ],
)
def test_mistyped_teachers_are_named(text, message):
    with pytest.raises(UserError, match=message):
        teachers.open_teacher(text)


def test_a_bundle_is_our_own_command(monkeypatch):
    ran = []

    def run(command, **options):
        ran.append(shlex.split(command))
        source, target = ran[-1][4], ran[-1][6]
        for i, image in enumerate(IMAGES):
            found = cv2.imread(f"{source}/{i:06}.png")[..., ::-1]
            np.testing.assert_array_equal(found, image)
            cv2.imwrite(f"{target}/{i:06}.png", repeated(found)[..., ::-1])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(teachers.subprocess, "run", run)
    outputs = teachers.open_teacher("bundle:my models/{a}.safetensors")(IMAGES)
    ((*command, source, output, target, model, name),) = ran
    assert command == [sys.executable, "-m", "maskgit_sr", "upscale"]
    assert (output, model, name) == ("--output", "--model", "my models/{a}.safetensors")
    assert source != target
    np.testing.assert_array_equal(np.rint(outputs[1] * 255), repeated(IMAGES[1]))


def test_ncnn_files_are_run(tmp_path):
    pytest.importorskip("ncnn")
    (tmp_path / "up.param").write_text(UP)
    (tmp_path / "up.bin").write_bytes(b"")
    outputs = teachers.open_teacher(f"ncnn:{tmp_path}/up", threads=1)(IMAGES)
    for image, output in zip(IMAGES, outputs, strict=True):
        assert output.shape == repeated(image).shape and output.dtype == np.float32
        np.testing.assert_allclose(output * 255, repeated(image), atol=1e-4)


def test_wrong_ncnn_files_are_named(tmp_path):
    pytest.importorskip("ncnn")
    with pytest.raises(UserError, match=r"up\.param: no such file"):
        teachers.open_teacher(f"ncnn:{tmp_path}/up")
    (tmp_path / "up.param").write_text("a page of HTML")
    with pytest.raises(UserError, match=r"up\.param: ncnn cannot read it"):
        teachers.open_teacher(f"ncnn:{tmp_path}/up")
    (tmp_path / "up.param").write_text(UP.replace("data", "in"))
    with pytest.raises(UserError, match=r"up\.bin: no such file"):
        teachers.open_teacher(f"ncnn:{tmp_path}/up")
    (tmp_path / "up.bin").write_bytes(b"")
    with pytest.raises(UserError, match="up: ncnn ended with code -"):
        teachers.open_teacher(f"ncnn:{tmp_path}/up")(IMAGES)


def test_without_ncnn_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ncnn", None)
    with pytest.raises(UserError, match="pip install ncnn"):
        teachers.open_teacher(f"ncnn:{tmp_path}/up")


def test_the_mean_is_rounded_once_and_clipped():
    rng = np.random.default_rng(0)
    answers = [
        [rng.uniform(-0.2, 1.3, repeated(image).shape).astype(np.float32) for image in IMAGES]
        for _ in range(2)
    ]
    run = teachers.mean([lambda images, found=found: found for found in answers], 4)
    for output, one, two in zip(run(IMAGES), *answers, strict=True):
        assert output.dtype == np.uint8
        exact = ((one.astype(float) + two) / 2).clip(0, 1) * 255
        assert np.abs(output - exact).max() <= 0.5 + 1e-4
    same = teachers.mean([lambda images: [repeated(i) / np.float32(255) for i in images]], 4)
    for image, output in zip(IMAGES, same(IMAGES), strict=True):
        np.testing.assert_array_equal(output, repeated(image))


def test_an_output_of_another_size_is_one_line(repeat):
    run = teachers.mean([teachers.open_teacher(repeat(2))], 4)
    with pytest.raises(UserError, match=r"^teacher: output 10x14 is not 4 times LR 5x7$"):
        run(IMAGES)
