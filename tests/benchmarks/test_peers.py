"""benchmarks.peers: the set `web`, and peers as ncnn files."""

import json

import numpy as np
import pytest

from benchmarks import peers
from data.chain import Degradation
from maskgit_sr import images
from maskgit_sr.errors import UserError
from tests.data.prepared import contents, save, scene


@pytest.fixture(scope="module")
def val(tmp_path_factory):
    """Three sets of HR images, of which the third has more than are taken."""
    root = tmp_path_factory.mktemp("val")
    for seed, (name, count) in enumerate({"set14": 2, "bsd100": 1, "drealsr": 22}.items()):
        for i in range(count):
            save(root / name / f"hr/{i:02}.png", scene(41 + i, 47, 100 * seed + i))
        (root / name / "hr/LICENCE.txt").write_text("no picture")
    return root


def test_the_set_web_is_the_preset_on_the_others(val, tmp_path):
    peers.make_web(val, tmp_path / "web")
    found = peers.pairs(tmp_path / "web", tmp_path / "unused")
    drealsr = [f"drealsr_{i:02}" for i in range(20)]
    assert [e.name for e in found] == ["bsd100_00", *drealsr, "set14_00", "set14_01"]
    kept = json.loads((tmp_path / "web/lr/degradations.json").read_text())
    assert (kept["preset"], kept["seed"], kept["scale"]) == ("web", 0, 4)
    for entry in found[::7]:
        name, _, stem = entry.name.partition("_")
        whole = images.read(val / name / f"hr/{stem}.png").color
        hr, lr = (images.read(path).color for path in (entry.hr, entry.lr))
        np.testing.assert_array_equal(hr, whole[: len(whole) // 4 * 4, :44])
        record = Degradation.from_dict(kept["images"][f"{entry.name}.png"])
        np.testing.assert_array_equal(lr, record.apply(hr))
    peers.make_web(val, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(tmp_path / "web")


def test_what_the_set_web_lacks_is_named(val, tmp_path):
    with pytest.raises(UserError, match="set14/hr.*not found"):
        peers.make_web(tmp_path, tmp_path / "web")
    for name in peers.WEB:
        save(tmp_path / name / "hr/a.png", scene(40, 40 if name == "set14" else 3))
    with pytest.raises(UserError, match="set web: bsd100_a.png: image of 40x3 is smaller"):
        peers.make_web(tmp_path, tmp_path / "web")


def test_peers_are_ncnn_files_rounded_to_bytes(tmp_path):
    pytest.importorskip("ncnn")
    layers = "Input data 0 1 data\nInterp up 1 1 data output 0=1 1=4.0 2=4.0\n"
    (tmp_path / f"{peers.X4PLUS}.param").write_text(f"7767517\n2 2\n{layers}")
    (tmp_path / f"{peers.X4PLUS}.bin").write_bytes(b"")
    lr = scene(9, 7)
    output = peers.peer(tmp_path, peers.X4PLUS, 1)(lr)
    np.testing.assert_array_equal(output, lr.repeat(4, 0).repeat(4, 1))
    assert output.dtype == np.uint8


def test_missing_files_of_x4plus_are_one_line(val, tmp_path, run, capsys):
    pytest.importorskip("ncnn")
    with pytest.raises(SystemExit) as end:
        run(peers, "--val", str(val), "--x4plus", str(tmp_path), "--models")
    assert end.value.code == 2
    line = f"benchmarks.peers: {tmp_path}/realesrgan-x4plus.param: no such file\n"
    assert capsys.readouterr().err == line
