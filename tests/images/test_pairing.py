"""images.pairing: whose output belongs to whose reference."""

from pathlib import Path

import pytest

from maskgit_sr.errors import UserError
from maskgit_sr.images import pairing


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Canon_001_LR4", "Canon_001"),
        ("Canon_001_HR", "Canon_001"),
        ("DSC_1045_x1", "DSC_1045"),
        ("0801x4_out", "0801"),
        ("img_001_SRF_4_HR", "img_001_SRF_4"),
        ("a/b_SR", "a/b"),
        ("img_001", "img_001"),  # a number is a name
        ("box4", "box4"),
        ("_x4", "_x4"),
        ("baby-4x_restored", "baby"),
        ("sub/P1_x4", "sub/P1"),
        ("sub/_x4", "sub/_x4"),
        ("a_LR_x4", "a"),
    ],
)
def test_scene(name, expected):
    assert pairing.scene(name) == expected


def folder(path: Path, *names):
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(b"")
    return str(path)


def names(found):
    """Names of the files of each scene, where every file has a partner."""
    entries, problems = found
    assert not problems
    return [(e.name, e.sr and e.sr.name, e.hr and e.hr.name, e.lr and e.lr.name) for e in entries]


def test_equal_names_then_scenes_then_beginnings(tmp_path):
    hr = folder(tmp_path / "hr", "1_HR.png", "2.png", "img_3.png", "img_33.png")
    tool = ("img_3_mytool-v2.png", "img_33_mytool-v2.png")
    sr = folder(tmp_path / "sr", "1_x4.jpg", "2.webp", *tool)
    lr = folder(tmp_path / "lr", "1_LR4.png", "2.png", "img_3x4.png", "img_33x4.png")
    assert names(pairing.match(sr, hr, lr)) == [
        ("1_HR", "1_x4.jpg", "1_HR.png", "1_LR4.png"),
        ("2", "2.webp", "2.png", "2.png"),
        ("img_3", "img_3_mytool-v2.png", "img_3.png", "img_3x4.png"),
        ("img_33", "img_33_mytool-v2.png", "img_33.png", "img_33x4.png"),
    ]


def test_capitals_do_not_keep_names_apart(tmp_path):
    assert pairing.partners(["A_HR.png", "b.png"], ["B_x4.png", "a_lr4.PNG"]) == {
        "A_HR.png": "a_lr4.PNG",
        "b.png": "B_x4.png",
    }


def test_accents_in_either_form_of_unicode(tmp_path):
    """A Mac writes a letter and an accent."""
    one, two = "\u00dcberfahrt", "U\u0308berfahrt"
    assert one != two
    hr = folder(tmp_path / "hr", f"{one}.png", "\u00e9_1.png", "\u00e9_11.png")
    sr = folder(tmp_path / "sr", f"{two}_out.png", "e\u0301_1-net.png", "e\u0301_11-net.png")
    lr = folder(tmp_path / "lr", f"{two}.jpg", "E\u0301_1_LR4.png", "e\u0301_11.png")
    assert names(pairing.match(sr, hr, lr)) == [
        (one, f"{two}_out.png", f"{one}.png", f"{two}.jpg"),  # as they are on disk
        ("\u00e9_1", "e\u0301_1-net.png", "\u00e9_1.png", "E\u0301_1_LR4.png"),
        ("\u00e9_11", "e\u0301_11-net.png", "\u00e9_11.png", "e\u0301_11.png"),
    ]
    both = [f"{one}.png", f"{two}.png"]  # two files, which are told apart as long as they can be
    assert pairing.partners(both, both) == {name: name for name in both}


def test_scenes_that_differ_in_their_suffix_alone(tmp_path):
    """As `upscale` names their outputs, and with what tools append."""
    hr = folder(tmp_path / "hr", "1.jpg", "1.png", "2.jpg")
    for number, sr in enumerate(
        (("1.jpg.png", "1.png.png", "2.png"), ("1.jpg_x4.png", "1.png_x4.png", "2_x4.png"))
    ):
        found = names(pairing.match(folder(tmp_path / f"sr{number}", *sr), hr))
        assert [(scene, output) for scene, output, *_ in found] == [
            *zip(("1.jpg", "1.png", "2"), sr, strict=True)
        ]
    assert [entry[0] for entry in names(pairing.match(hr=hr, lr=hr))] == ["1.jpg", "1.png", "2"]


def test_sub_folders_are_part_of_a_name(tmp_path):
    hr = folder(tmp_path / "hr", "a/1.png", "b/1.png")
    sr = folder(tmp_path / "sr", "a/1_x4.png", "b/1_x4.png")
    entries, problems = pairing.match(sr, hr)
    found = [(e.name, e.sr.parent.name) for e in entries]
    assert not problems and found == [("a/1", "a"), ("b/1", "b")]


def test_our_confidence_maps_are_no_outputs(tmp_path):
    hr = folder(tmp_path / "hr", "1.png")
    sr = folder(tmp_path / "sr", "1_x4.png", "1_x4_confidence.png")
    assert names(pairing.match(sr, hr)) == [("1", "1_x4.png", "1.png", None)]


def test_what_has_no_single_partner_is_named_and_left_out(tmp_path):
    hr = folder(tmp_path / "hr", "1.png", "2.png", "3.png")
    sr = folder(tmp_path / "sr", "1.png", "2_x4.png", "2_out.png", "9.png")
    entries, problems = pairing.match(sr, hr)
    assert [entry.name for entry in entries] == ["1"]
    left = sorted("/".join(line.split(": ")[0].rsplit("/", 2)[-2:]) for line in problems)
    assert left == ["hr/2.png", "hr/3.png", "sr/2_out.png", "sr/2_x4.png", "sr/9.png"]
    assert all("no single partner in --" in line for line in problems)


def test_single_files_need_no_common_name(tmp_path):
    base = folder(tmp_path, "mine.png", "truth.png")
    found = pairing.match(f"{base}/mine.png", f"{base}/truth.png")
    assert names(found) == [("truth", "mine.png", "truth.png", None)]


def test_outputs_alone(tmp_path):
    found = pairing.match(sr=folder(tmp_path / "sr", "b.png", "a.png"))
    assert names(found) == [("a", "a.png", None, None), ("b", "b.png", None, None)]


def test_several_outputs_of_each_scene(tmp_path):
    """In folders, or in one with a number behind the name of the reference."""
    hr = folder(tmp_path / "hr", "1.png", "2.png", "3.png")
    one = folder(tmp_path / "a", "1.png", "2.png", "3.png")
    two = folder(tmp_path / "b", "1_x4.png", "3_x4.png")
    entries, problems = pairing.match_samples([one, two, one], hr)
    found = [(e.name, e.sr.parent.name, [p.parent.name for p in e.more]) for e in entries]
    assert found == [("1", "a", ["b", "a"]), ("3", "a", ["b", "a"])]
    assert len(problems) == 1 and problems[0].endswith(f"2.png: no single partner in --sr {two}")
    all_in_one = folder(tmp_path / "c", *(f"{i}_x4_{k}.png" for i in (1, 2, 3) for k in "01"))
    entries, problems = pairing.match_samples([f"{all_in_one}/*_{k}.png" for k in "01"], hr)
    found = [(e.sr.name, *(path.name for path in e.more)) for e in entries]
    assert not problems and found == [(f"{i}_x4_0.png", f"{i}_x4_1.png") for i in (1, 2, 3)]
    assert pairing.match_samples([one], hr) == pairing.match(one, hr)
    with pytest.raises(UserError, match="--sr: several of them need --hr"):
        pairing.match_samples([one, two], None, hr)
    (tmp_path / "b" / "3_x4.png").unlink()
    other = folder(tmp_path / "d", "2.png")
    with pytest.raises(UserError, match="no name is in all of them"):
        pairing.match_samples([two, other], hr)


def test_mistakes(tmp_path):
    hr, sr = folder(tmp_path / "hr", "1.png"), folder(tmp_path / "sr", "2.png")
    for given, message in (
        ((sr, hr), "no name goes with one in --hr .*1.png and 2.png"),
        ((sr, f"{hr}/1.png"), "--hr .*1.png: is a file, the others are folders"),
        (("gone", hr), "gone: no such file or folder"),
        ((), "at least one"),
        ((sr, folder(tmp_path / "empty", "x.txt")), "no pictures in this folder"),
    ):
        with pytest.raises(UserError, match=message):
            pairing.match(*given)
