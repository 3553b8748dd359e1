"""data.teach: what taught shards hold, runs that are cut short, and what is refused."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from data import records, teach, teachers
from data.examples import ExampleSpec
from data.readers import Reader, Skipped
from data.records import RecordFolder
from data.shards import Shards
from data.sources import ImageFolder
from maskgit_sr import paths
from tests.data.prepared import command as prepare_command
from tests.data.prepared import contents, examples, killed, manifest, save, scene, stops

COUNT, SHARD = 11, 3
SMALL = ("--crop", "32", "--margin", "8", "--count", str(COUNT), "--shard", str(SHARD))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Four photographs, and a file that is none."""
    root = tmp_path_factory.mktemp("input") / "photos"
    for i in range(4):
        save(root / f"{i}.png", scene(60 + 8 * i, 70, i))
    (root / "4.png").write_bytes(b"broken")
    (root / "MANIFEST.csv").write_text("file,licence\n0.png,CC0\n2.png,CC BY\n")
    return root


@pytest.fixture(autouse=True)
def repeats(monkeypatch):
    """The teacher `command:N` repeats every pixel N times, without a process; how often it ran."""
    real, calls = teachers.open_teacher, []

    def opened(text, threads=2):
        if not text.startswith("command:") or not text[8:].isdigit():
            return real(text, threads)
        scale = int(text[8:])

        def run(images):
            calls.append(len(images))
            return [i.repeat(scale, 0).repeat(scale, 1) / np.float32(255) for i in images]

        return run

    monkeypatch.setattr(teachers, "open_teacher", opened)
    return calls


def command(source, output, *more, teacher=("command:4",)):
    line = ["--input", str(source), "--output", str(output), "--teacher", *teacher]
    return teach.main([*line, "--preset", "web", *SMALL, *more])


@pytest.fixture(scope="module")
def finished(photos, tmp_path_factory):
    """Files of a run that nothing disturbed."""
    output = tmp_path_factory.mktemp("output")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teachers, "open_teacher", lambda text, threads: _repeated)
        assert command(photos, output) == 0
    return contents(output)


def _repeated(images):
    return [image.repeat(4, 0).repeat(4, 1) / np.float32(255) for image in images]


# shards


def test_an_example_is_the_crop_its_restoration_and_the_strength(photos, tmp_path, capsys):
    assert command(photos, tmp_path, "--keep-hr", "--strength", "0.5", "--seed", "7") == 0
    out, err = capsys.readouterr()
    assert out == f"{COUNT} examples in 4 shards\n"
    assert err.startswith(f"data.teach: skipped {photos}/4.png: not a picture")
    assert err.count("\n") == 1
    found, lines = RecordFolder(tmp_path), examples(tmp_path)
    assert len(found) == len(lines) == COUNT
    spec = ExampleSpec(32, 8, preset="web", contrast=2.0)
    reader = Reader(ImageFolder(photos), Skipped())
    for i, line in enumerate(lines):
        taught = found[i]
        order = np.random.default_rng([7, 0, i // 5]).permutation(5)
        made = spec.make(reader, int(order[i % 5]), np.random.default_rng([7, 1, i]))
        np.testing.assert_array_equal(taught["lr"], made["lr"])
        np.testing.assert_array_equal(taught["hr"], made["hr"])
        np.testing.assert_array_equal(taught["teacher"], made["lr"].repeat(4, 0).repeat(4, 1))
        assert taught["strength"] == 0.5
        assert taught["id"] == line["id"] == f"{made['id']}#{i}"
        assert line["source"] == made["id"]
        stated = {"0.png": "CC0", "2.png": "CC BY"}
        assert line["licence"] == stated.get(made["id"], "unknown")
    described = manifest(tmp_path)
    assert described["version"] == records.TAUGHT and described["settings"]["strength"] == 0.5
    assert [shard["examples"] for shard in described["shards"]] == [3, 3, 3, 2]
    assert sum(described["licences"].values()) == COUNT
    files = {"manifest.json", "examples.jsonl", "report.csv"}
    assert set(contents(tmp_path)) == files | {s["file"] for s in described["shards"]}


def test_hr_is_left_out_unless_asked_for_and_may_teach_itself(photos, tmp_path):
    assert command(photos, tmp_path / "plain") == 0
    assert set(RecordFolder(tmp_path / "plain")[0]) == {"lr", "teacher", "strength", "id"}
    assert RecordFolder(tmp_path / "plain")[0]["strength"] == 1
    assert command(photos, tmp_path / "hr", "--keep-hr", teacher=("hr",)) == 0
    for i in range(COUNT):
        taught = RecordFolder(tmp_path / "hr")[i]
        np.testing.assert_array_equal(taught["teacher"], taught["hr"])
        np.testing.assert_array_equal(taught["lr"], RecordFolder(tmp_path / "plain")[i]["lr"])


def test_equal_seeds_give_equal_shards_and_others_do_not(photos, finished, tmp_path):
    command(photos, tmp_path / "a")
    assert contents(tmp_path / "a") == finished
    command(photos, tmp_path / "b", "--seed", "1")
    shards = [name for name in finished if name.startswith("shard-")]
    other = contents(tmp_path / "b")
    assert len(shards) == 4 and not any(finished[name] == other[name] for name in shards)


def test_several_teachers_give_their_mean(photos, tmp_path, monkeypatch):
    known = {"command:a": np.float32(0.25), "command:b": np.float32(0.5)}

    def opened(text, threads):
        return lambda images: [
            np.full((4 * len(i), 4 * i.shape[1], 3), known[text]) for i in images
        ]

    monkeypatch.setattr(teachers, "open_teacher", opened)
    assert command(photos, tmp_path, teacher=tuple(known)) == 0
    assert {int(n) for n in np.unique(RecordFolder(tmp_path)[3]["teacher"])} == {96}  # of 95.6


def test_presets_can_be_mixed_and_scales_be_others(photos, tmp_path):
    more = ("--preset", "bicubic*0.5;lens*0.5", "--scale", "2", "--zoom", "1", "1.5")
    assert command(photos, tmp_path, *more, teacher=("command:2",)) == 0
    assert manifest(tmp_path)["settings"]["preset"] == "bicubic*0.5;lens*0.5"
    assert RecordFolder(tmp_path)[0]["lr"].shape == (16, 16, 3)


def test_it_ends_with_the_shard_that_reaches_the_limit(photos, finished, tmp_path):
    sizes = [len(data) for name, data in finished.items() if name.startswith("shard-")]
    gb = (sizes[0] + 1) / 2**30
    assert command(photos, tmp_path, "--max-gb", repr(gb)) == 0
    assert manifest(tmp_path)["examples"] == 2 * SHARD
    assert [s["bytes"] for s in manifest(tmp_path)["shards"]] == sizes[:2]


def test_licences_of_shards_and_pairs_are_kept(photos, tmp_path):
    prepared = tmp_path / "prepared"
    licence = ("--licence", "CC BY-SA")
    assert prepare_command(photos, output=prepared, more=licence) == 0
    assert command(prepared, tmp_path / "s") == 0
    assert {line["licence"] for line in examples(tmp_path / "s")} == {"CC BY-SA"}
    for i in range(2):
        hr = scene(48, 48, i)
        save(tmp_path / f"p/hr/{i}.png", hr)
        save(tmp_path / f"p/lr/{i}.png", np.ascontiguousarray(hr[::4, ::4]))
    (tmp_path / "p/MANIFEST.csv").write_text("file,licence\nhr/0.png,CC0\n")
    assert command(f"pairs:{tmp_path}/p", tmp_path / "t") == 0
    stated = {line["source"]: line["licence"] for line in examples(tmp_path / "t")}
    assert stated == {"0": "CC0", "1": "unknown"}


def test_taught_shards_can_be_taught_again_but_have_no_hr(photos, tmp_path, capsys):
    assert command(photos, tmp_path / "a") == 0
    assert command(tmp_path / "a", tmp_path / "b") == 0
    line = ["--input", tmp_path / "a", "--output", tmp_path / "c", *SMALL, "--teacher", "hr"]
    assert "examples without hr" in stops(capsys, teach, *line)
    assert not (tmp_path / "c").exists()


# killed and resumed


def leave_half(path, packed):
    """What a process leaves that is killed while it writes the second shard."""
    half = path.with_name(f".{path.stem}.0123abcd.part.array_record")
    return path.name == "shard-00001.array_record" and half.write_bytes(b"half")


@pytest.mark.parametrize(
    ("module", "function", "dies", "left"),
    [
        *[
            pytest.param(
                paths, "write", lambda path, data, name=name: Path(path).name == name, left, id=name
            )
            for name, left in (("part-00000.json", 4), ("part-00002.json", 2), ("manifest.json", 0))
        ],
        pytest.param(Shards, "_clear", lambda shards: True, 0, id="after the manifest"),
        pytest.param(records, "write_shard", leave_half, 3, id="within a shard"),
    ],
)
def test_a_killed_run_goes_on_to_the_same_bytes(
    photos, finished, tmp_path, monkeypatch, repeats, module, function, dies, left
):
    with killed(monkeypatch, module, function, dies):
        command(photos, tmp_path)
    assert contents(tmp_path) != finished
    repeats.clear()
    assert command(photos, tmp_path) == 0
    assert contents(tmp_path) == finished
    assert len(repeats) == left  # finished shards are not taught again


def test_a_finished_folder_is_left_alone(photos, finished, tmp_path, monkeypatch, capsys):
    command(photos, tmp_path)
    capsys.readouterr()
    monkeypatch.setattr(teachers, "open_teacher", None)  # whose files may be gone
    assert command(photos, tmp_path) == 0
    assert capsys.readouterr().out == f"{tmp_path}: finished already; nothing to do\n"
    assert contents(tmp_path) == finished


# what is refused


@pytest.mark.parametrize("done", [True, False])
@pytest.mark.parametrize(
    "more", [("--seed", "1"), ("--strength", "0.5"), ("--keep-hr",), ("--preset", "lens")]
)
def test_a_folder_of_other_settings_is_refused(photos, tmp_path, monkeypatch, capsys, done, more):
    if done:
        command(photos, tmp_path)
    else:
        with killed(monkeypatch, Shards, "finish", lambda shards: True):
            command(photos, tmp_path)
    before = contents(tmp_path)
    line = ["--input", photos, "--output", tmp_path, "--teacher", "command:4", "--preset", "web"]
    assert "was begun with other settings or input" in stops(capsys, teach, *line, *SMALL, *more)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("teacher", "more", "message"),
    [
        ("command:3", (), "teacher: output 24x24 is not 4 times LR 8x8"),
        ("command:exit 9; # {input} {output}", (), "ended with code 9: no message"),
        ("ncnm:a/b", (), "teacher 'ncnm:a/b': expected ncnn:…"),
        ("hr", ("--preset", "wab"), "argument --preset: preset must be one of realesrgan, "),
        ("hr", ("--preset", "web*0;lens"), "argument --preset: preset 'web*0': expected a finite"),
        ("hr", ("--strength", "2"), "--strength: expected 0 to 1, found 2"),
        ("hr", ("--strength", "nan"), "--strength: expected 0 to 1"),
        ("hr", ("--count", "0"), "--count, --shard, --threads: expected at least 1"),
        ("hr", ("--max-gb", "-1"), "--max-gb: at least 0"),
        ("hr", ("--crop", "30"), "crop must be a multiple of scale 4"),
        ("hr", ("--zoom", "2", "1"), "zoom must be a range from 1 upwards"),
        ("hr", ("--contrast", "300"), "no crop of 5 images has contrast 300"),
    ],
)
def test_mistakes_are_one_line_and_leave_no_folder(tmp_path, capsys, teacher, more, message):
    photos = tmp_path / "photos"
    for i in range(5):
        save(photos / f"{i}.png", scene(48, 48, i))
    output = tmp_path / "out"
    line = ["--input", photos, "--output", output, "--teacher", teacher, *SMALL, *more]
    assert message in stops(capsys, teach, *line)
    assert not output.exists()


def test_a_mistake_after_the_first_shard_keeps_it(photos, finished, tmp_path, monkeypatch):
    calls = []

    def opened(text, threads):
        def run(images):
            calls.append(1)
            return _repeated(images) if len(calls) == 1 else [i / np.float32(255) for i in images]

        return run

    with monkeypatch.context() as patch, pytest.raises(ValueError, match="is not 4 times"):
        patch.setattr(teachers, "open_teacher", opened)
        command(photos, tmp_path)
    assert (tmp_path / "shard-00000.array_record").exists()
    assert command(photos, tmp_path) == 0
    assert contents(tmp_path) == finished


def test_a_damaged_shard_is_one_line(photos, tmp_path):
    command(photos, tmp_path)
    path = tmp_path / "shard-00001.array_record"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=r"shard-00001\.array_record: has [\d,]+ bytes, the mani"):
        RecordFolder(tmp_path)
    path.write_bytes(b"x" * len(whole))
    with pytest.raises(ValueError, match="shards") as error:
        RecordFolder(tmp_path)
    assert "\n" not in str(error.value)
    shutil.move(path, tmp_path / "away")
    with pytest.raises(ValueError, match=r"shard-00001\.array_record: is missing"):
        RecordFolder(tmp_path)
