"""`maskgit-sr score` and `evaluate` as they are typed: tables, files, pages, exit codes."""

import json
import shutil
import unicodedata

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

import maskgit_sr
from launch import evaluate as synthetic
from maskgit_sr import assets as known
from maskgit_sr import bundles, cli, images
from maskgit_sr.methods.maskgit_training import MaskGITLosses
from maskgit_sr.methods.realsrt import RealSRT
from maskgit_sr.methods.sr_maskgit import Correction
from tests.cli.commands import refuses, run
from tests.methods import small
from tests.perceptual.perceptual_nets import alex_tensors


def wave(seed, side=96):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / rng.uniform(4, 9)
    unit = 0.5 + 0.4 * np.sin(y[..., None] * rng.uniform(0.5, 1, 3) + x[..., None])
    return np.rint(unit * 255).astype(np.uint8)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Four scenes: hr, lr of a quarter, and two tools, one of which is better."""
    base = tmp_path_factory.mktemp("sets")
    rng = np.random.default_rng(0)
    for i in range(4):
        hr = wave(i)
        noisy = (np.clip(hr + rng.normal(0, sigma, hr.shape), 0, 255) for sigma in (2, 9))
        near, far = (np.rint(image).astype(np.uint8) for image in noisy)
        made = {"hr": hr, "lr": images.resize(hr, 24, 24), "near": near, "far": far}
        for kind, image in made.items():
            images.write(images.from_array(image), base / kind / f"{i}_{kind.upper()}.png")
    return base


PIXELS = ("--metrics", "psnr_rgb,ssim_y")


def test_a_folder_keeps_its_whole_name(sets, tmp_path):
    shutil.copytree(sets / "near", tmp_path / "eps_0.5")
    given = ("--sr", tmp_path / "eps_0.5", "--hr", sets / "hr", "--metrics", "psnr_rgb")
    run("score", *given, "-o", tmp_path / "scores.json")
    assert json.loads((tmp_path / "scores.json").read_text())["system"] == "eps_0.5"


def test_score_and_compare(sets, tmp_path):
    for tool in ("near", "far"):
        found = run(
            *("score", "--sr", sets / tool, "--hr", sets / "hr", "--lr", sets / "lr", *PIXELS),
            *("-o", tmp_path / f"{tool}.json", "--report", tmp_path),
        )
        assert f"{tool} " in found.stdout and "4 of 4 pictures scored" in found.stdout
        assert "psnr_rgb: RGB" in found.stdout and "higher is better" in found.stdout
    page = (tmp_path / "index.html").read_text()
    assert "bicubic" in page and "0_HR" in page and "data:image/webp" in page
    near, far = (json.loads((tmp_path / f"{tool}.json").read_text()) for tool in ("near", "far"))
    assert near["summary"]["psnr_rgb"]["mean"] == pytest.approx(42, abs=1)
    assert far["summary"]["psnr_rgb"]["mean"] == pytest.approx(29, abs=1)
    assert [row["name"] for row in near["images"]] == ["0_HR", "1_HR", "2_HR", "3_HR"]
    assert near["versions"]["jax"] and near["hardware"] and near["protocol"]["name"] == "custom"
    found = run("score", "--compare", tmp_path / "far.json", tmp_path / "near.json")
    line = next(line for line in found.stdout.splitlines() if line.startswith("psnr_rgb"))
    assert "4 of 4" in line and "+1" in line


@pytest.fixture
def random_lpips(tmp_path, monkeypatch):
    """Random weights where LPIPS' are looked for."""
    (tmp_path / "assets").mkdir()
    save_file(alex_tensors(), tmp_path / "assets" / "lpips_alex.safetensors")
    monkeypatch.setenv(known.ENV, str(tmp_path / "assets"))


def test_several_outputs_of_each_picture(sets, subpixel, random_lpips, tmp_path):
    """The folders of two tools as outputs of one, and a model's own at several seeds."""
    hr = ("--hr", sets / "hr", "--lr", sets / "lr", "--protocol", "ntire")
    tools = ("--sr", sets / "near", "--sr", sets / "far")
    found = run("score", *tools, *hr, "-o", tmp_path / "a.json")
    assert "4 of 4 pictures scored; protocol ntire: whole pictures, means over 2 outputs each" in (
        " ".join(found.stdout.split())
    )
    assert "l that of the best output at each pixel" in found.stdout
    result = json.loads((tmp_path / "a.json").read_text())
    assert result["source"]["samples"] == 2
    rows = [row["scores"] for row in result["images"]]
    assert all(0 <= row["diversity"] < 10 for row in rows)  # the first is better nearly everywhere
    assert all(row["lr_psnr_ntire_worst"] < row["lr_psnr_ntire"] - 3 for row in rows)
    # of one output there is no diversity, and the mean is over it alone
    run("score", *tools[:2], *hr, "-o", tmp_path / "near.json")
    near = json.loads((tmp_path / "near.json").read_text())
    assert [line.split(":")[0] for line in near["problems"]] == ["lr_psnr_ntire_worst", "diversity"]
    mean = (near["images"][0]["scores"]["lr_psnr_ntire"] + rows[0]["lr_psnr_ntire_worst"]) / 2
    assert rows[0]["lr_psnr_ntire"] == pytest.approx(mean, rel=1e-5)

    for i in range(2):
        lr = images.resize(images.read(sets / "hr" / f"{i}_HR.png").color, 48, 48)
        images.write(images.from_array(lr), tmp_path / "lr" / f"{i}_HR.png")
    command = ("evaluate", "-m", subpixel, "--lr", tmp_path / "lr", "--samples", 3, *hr[:2])
    command += ("--protocol", "ntire", "-o", tmp_path / "b.json", "--option")
    run(*command, "noise=0.05", code=1)
    result = json.loads((tmp_path / "b.json").read_text())
    assert result["source"]["samples"] == 3 and result["counts"]["scored"] == 2
    assert all(row["scores"]["diversity"] > 1 for row in result["images"])
    refuses("samples: subpixel draws nothing at random", *command, "noise=0")
    refuses("--save: keeps one output", *command, "noise=1", "--save", tmp_path / "kept")
    refuses("--samples: expected at least 1", *command, "noise=1", "--samples", 0)


def test_names_sizes_and_colours_as_real_sets_have_them(subpixel, tmp_path):
    """A decomposed name, a greyscale reference, sides that are no multiples of the scale."""
    one, two, three = wave(1), wave(2, 95), wave(3)
    grey = images.from_array(np.rint(three.mean(2, keepdims=True)).astype(np.uint8))
    for name, hr, lr in (
        ("\u00dcberfahrt", images.from_array(one), one),
        ("odd", images.from_array(two), two[:94, :94]),
        ("grey", grey, three),
    ):
        decomposed = unicodedata.normalize("NFD", name)
        small = images.resize(lr, lr.shape[0] // 2, lr.shape[1] // 2)
        images.write(hr, tmp_path / "hr" / f"{name}.png")
        images.write(images.from_array(small), tmp_path / "lr" / f"{decomposed}.png")
    (tmp_path / "lr/w.psd").touch()
    command = ("--lr", tmp_path / "lr", "--hr", tmp_path / "hr", *PIXELS)
    more = ("--save", tmp_path / "sr", "--report", tmp_path / "page")
    found = run("evaluate", "-m", subpixel, *command, *more)
    assert "3 of 3 pictures scored" in found.stdout
    assert found.stderr.splitlines()[:-1] == [
        "maskgit-sr: passed over 1 file of formats that are not read: 1 .psd",
        "maskgit-sr: grey: HR is greyscale, scored as three equal channels",
        "maskgit-sr: odd: SR 94x94, HR 95x95, both cut to 94x94",
    ]
    found = run("score", "--sr", tmp_path / "sr", *command)
    assert "3 of 3 pictures scored" in found.stdout
    # without LR images nothing tells the scale
    found = run("score", "--sr", tmp_path / "sr", "--hr", tmp_path / "hr", *PIXELS, code=1)
    assert "2 of 3 pictures scored" in found.stdout and "--crop-to-min cuts" in found.stderr


@pytest.mark.parametrize(("charset", "arrow"), [("ascii", "^"), ("cp1252", "^"), ("utf-8", "↑")])
def test_a_console_without_arrows(sets, tmp_path, charset, arrow):
    for name in ("sr", "hr"):
        (tmp_path / name).mkdir()
        for number in range(2):
            source = sets / "hr" / f"{number}_HR.png"
            (tmp_path / name / f"caf\udce9 日 {number}.png").write_bytes(source.read_bytes())
    (tmp_path / "hr" / "↑\udce9.png").touch()
    words = ["score", "--sr", tmp_path / "sr", "--hr", tmp_path / "hr", "-o", tmp_path / "a.json"]
    words += ["--report", tmp_path / "page", *PIXELS]
    found = CliRunner(charset=charset).invoke(cli.app, list(map(str, words)))
    assert found.exit_code == 1, found.exception
    assert f"psnr_rgb {arrow}" in found.stdout_bytes.decode(charset)
    names = [row["name"] for row in json.loads((tmp_path / "a.json").read_text())["images"]]
    assert names == ["caf\udce9 日 0", "caf\udce9 日 1"]
    assert (tmp_path / "page/index.html").read_bytes().decode("utf-8")


def test_missing_partners_are_told_of_and_cost_exit_code_1(sets, tmp_path):
    for name in ("0_NEAR.png", "2_NEAR.png"):
        (tmp_path / name).write_bytes((sets / "near" / name).read_bytes())
    found = run("score", "--sr", tmp_path, "--hr", sets / "hr", *PIXELS, code=1)
    assert "2 of 4 pictures scored" in found.stdout
    assert found.stderr.count("no single partner") == 2 and "1_HR.png" in found.stderr


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("score", "--sr: expected a folder of outputs, found none"),
        ("score --sr gone", "gone: no such file or folder"),
        ("score --sr near --hr hr --protocol mine", "--protocol: expected one"),
        ("score --sr near --hr hr --metrics psnr", "--metrics: expected one of"),
        ("score --sr near --hr hr --metrics ,", "--metrics: expected names"),
        ("score --sr near --hr hr --border -1", "--border: expected at least"),
        ("score --sr near --sr far --lr lr", "--sr: several of them need --hr"),
        ("score --sr near --compare a b", "--compare: takes two files"),
        ("score --compare gone.json b.json", "gone.json: No such file"),
        ("evaluate --lr lr --limit 0", "--limit: expected at least 1"),
        ("evaluate --lr lr --consistent 0", "--consistent: expected more than 0"),
        ("evaluate --lr lr --hr hr --calibration c --consistent 1", "--consistent: changes no"),
        ("evaluate --lr lr --ablation parts", "--hr: is needed for"),
        ("evaluate --lr lr --hr hr --ablation x", "--ablation: expected one"),
        ("evaluate --lr lr --hr hr -m gone", "gone"),
        ("evaluate --lr lr --hr hr --option magic=1", "no such option"),
        ("evaluate --lr lr --hr hr --option magic", "NAME=VALUE"),
        ("evaluate --lr lr --steps 1 --option steps=2", "--option: expected steps once"),
        ("evaluate --lr lr --hr hr --seed -1", "--seed: expected 0"),
    ],
)
def test_mistakes_are_one_line(sets, bundle, monkeypatch, command, message):
    monkeypatch.chdir(sets)
    model = () if command.startswith("score") or "-m" in command.split() else ("-m", bundle)
    refuses(message, *command.split(), *model)


def test_evaluate_restores_scores_and_keeps(sets, tmp_path):
    found = run(
        *("evaluate", "--lr", sets / "lr", "--hr", sets / "hr", *PIXELS, "--limit", 2),
        *("--option", "strength=0.5", "-o", tmp_path / "a.json", "--save", tmp_path / "kept"),
        *("--report", tmp_path / "page"),
    )
    assert "2 of 2 pictures scored" in found.stdout
    result = json.loads((tmp_path / "a.json").read_text())
    assert result["system"] == maskgit_sr.DEFAULT_MODEL and result["source"]["strength"] == 0.5
    again = run(
        *("score", "--sr", tmp_path / "kept", "--hr", sets / "hr", *PIXELS),
        *("-o", tmp_path / "b.json"),
        code=1,  # two of the four have no output
    )
    assert "2 of 4" in again.stdout
    kept = json.loads((tmp_path / "b.json").read_text())
    assert [r["scores"] for r in kept["images"]] == [r["scores"] for r in result["images"]]
    assert (tmp_path / "page" / "index.html").stat().st_size > 50_000


def test_ablation(sets, bundle, tmp_path, monkeypatch):
    steps = RealSRT.studies["steps"]
    short = tuple(run for run in steps if run[1]["steps"] <= 2)
    monkeypatch.setattr(RealSRT, "studies", {**RealSRT.studies, "steps": short})
    command = ("evaluate", "--lr", sets / "lr", "--hr", sets / "hr", *PIXELS, "--limit", 1)
    command += ("--model", bundle)
    found = run(*command, "--ablation", "parts", "--steps", 1)
    for name in ("generator confidence", "+ critic", "+ control"):
        assert name in found.stdout
    found = run(*command, "--ablation", "steps", "-o", tmp_path / "t.json")
    assert "critic T=2" in found.stdout and (tmp_path / "t.png").stat().st_size > 5000
    curves = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("t-*.json"))]
    runs = [(curve["source"]["rule"], curve["source"]["steps"]) for curve in curves]
    assert runs == [("confidence", 1), ("confidence", 2), ("critic", 1), ("critic", 2)]
    # the last step asks no one: with one step there is no difference
    assert curves[0]["summary"] == curves[2]["summary"]


def test_evaluate_scores_consistent_results(sets, subpixel, tmp_path):
    command = ("evaluate", "--lr", sets / "lr", "-m", subpixel, "--option", "noise=0.1")
    command += ("--metrics", "lr_psnr", "--limit", 1, "-o", tmp_path / "s.json")
    scores = []
    for more in ((), ("--consistent", 0.5)):
        run(*command, *more)
        found = json.loads((tmp_path / "s.json").read_text())
        scores.append(found["summary"]["lr_psnr"]["mean"])
        assert found["source"]["consistent"] == (0.5 if more else None)
        assert found["source"]["noise"] == 0.1
    # half a level at every pixel is at least 54.15 dB
    assert scores[0] < 40 and scores[1] >= 20 * np.log10(255 / 0.5)


def test_a_method_of_scale_2_without_confidence(sets, subpixel, tmp_path):
    for i in range(2):
        lr = images.resize(images.read(sets / "hr" / f"{i}_HR.png").color, 48, 48)
        images.write(images.from_array(lr), tmp_path / "lr" / f"{i}_LR2.png")
    command = ("evaluate", "--lr", tmp_path / "lr", "-m", subpixel, *PIXELS)
    with_hr = (*command, "--hr", sets / "hr")
    found = run(
        *with_hr,
        *("--option", "strength=0.5", "-o", tmp_path / "a.json", "--report", tmp_path / "page"),
        code=1,  # two references have no partner
    )
    assert "2 of 4 pictures scored" in found.stdout
    result = json.loads((tmp_path / "a.json").read_text())
    assert result["source"]["strength"] == 0.5 and "steps" not in result["source"]
    assert [row["height"] for row in result["images"]] == [96, 96]
    assert "confidence" not in (tmp_path / "page" / "index.html").read_text().split("views-0")[1]
    for args, message in (
        (("--ablation", "parts"), "--ablation: subpixel has no studies"),
        (("--calibration", tmp_path / "c"), "subpixel provides no confidence and no tokens"),
        (("--steps", 2), "steps: subpixel has no such option"),
        (("--temperature", 1), "temperature: subpixel has no such option"),
    ):
        refuses(message, *with_hr, *args)
    assert not (tmp_path / "c").exists()


def test_references_stand_beside_every_score(sets, tmp_path, monkeypatch):
    """What the VQGAN makes of LR and of HR; the latter is no score of LR's consistency."""
    method = small.build(Correction.name, None, MaskGITLosses())
    path = tmp_path / "m.safetensors"
    metadata = bundles.Metadata(method.name, method.describe(), 2)
    bundles.write(path, small.random_params(method), metadata, exact=method.exact)
    (tmp_path / "hr").mkdir()
    for i in range(2):
        hr = images.read(sets / "hr" / f"{i}_HR.png").color[:33, :40]  # 33 is no multiple of 2
        images.write(images.from_array(hr), tmp_path / "hr" / f"{i}.png")
        images.write(images.from_array(hr[:32:2, ::2]), tmp_path / "lr" / f"{i}.png")
    command = ("evaluate", "--lr", tmp_path / "lr", "--hr", tmp_path / "hr", "-m", path)
    command += ("--metrics", "psnr_rgb,lr_psnr", "-o", tmp_path / "a.json")
    found = run(*command)
    lines = [line.split() for line in found.stdout.splitlines() if line.startswith("VQGAN of")]
    assert [line[2] for line in lines] == ["LR", "HR"] and lines[1][4] == "–"
    references = json.loads((tmp_path / "a.json").read_text())["references"]
    assert references.keys() == {"VQGAN of LR", "VQGAN of HR"}
    assert references["VQGAN of HR"]["psnr_rgb"]["n"] == 2
    assert f"{references['VQGAN of LR']['psnr_rgb']['mean']:.4f}" == lines[0][3]
    assert "lr_psnr" not in references["VQGAN of HR"]
    one = Correction.studies["threshold"][:1]  # of its rows, each of which compiles
    monkeypatch.setattr(Correction, "studies", {"threshold": one})
    assert "VQGAN of HR" in run(*command, "--ablation", "threshold", "--limit", 1).stdout


def test_synthetic_sets(sets, subpixel, tmp_path, capsys):
    command = ["--hr", str(sets / "hr"), "--limit", "2", "--metrics", "psnr_rgb,lr_psnr"]
    command += ["--seed", "3", "--model", str(subpixel)]
    results = []
    for name in ("a", "b"):
        output = tmp_path / f"{name}.json"
        assert synthetic.main([*command, "--output", str(output)]) == 0
        results.append(json.loads(output.read_text()))
    scores = [[row["scores"] for row in result["images"]] for result in results]
    assert scores[0] == scores[1] and len(scores[0]) == 2
    assert results[0]["images"][0]["height"] == 96 and scores[0][0]["lr_psnr"] > 10
    assert results[0]["source"]["degrade"] == "realesrgan"
    assert results[0]["source"]["strength"] == 1.0
    capsys.readouterr()
    with pytest.raises(SystemExit, match="2"):
        synthetic.main([*command, "--degrade", "heavy"])
    assert capsys.readouterr().err.startswith("launch.evaluate: --degrade: preset must be one of")
