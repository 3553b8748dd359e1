"""The page of an evaluation in headless Chromium: its script runs, and something can be seen."""

import json
import re
import shutil
import subprocess
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from maskgit_sr.evaluation.report import page as report
from tests.evaluation.reports import NASTY, Page, result, views


@pytest.fixture(scope="module")
def chromium():
    for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"):
        if path := shutil.which(name):
            return path
    pytest.skip("needs chromium or google-chrome on PATH")


@pytest.fixture
def browse(chromium, tmp_path):
    """Opens a page and returns what the browser prints; fails on any message of its console."""

    def run(path, fragment, *flags):
        flags = (
            *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
            *("--enable-logging=stderr", "--virtual-time-budget=5000"),
            *(f"--user-data-dir={tmp_path / 'profile'}", "--no-first-run", *flags),
        )
        command = [chromium, *flags, f"{path.as_uri()}{fragment}"]
        done = subprocess.run(command, capture_output=True, timeout=120, check=True)
        said = done.stderr.decode(errors="replace").splitlines()
        assert not [line for line in said if "CONSOLE" in line]
        return done.stdout.decode()

    return run


@pytest.mark.parametrize("name", ["two", NASTY[0], NASTY[2]])
def test_a_browser_opens_an_image(tmp_path, browse, name):
    ours = result(names=["one", name, "three"])
    path = report.write(tmp_path, [ours, result("bicubic", names=["one", name])], views)
    dom = tmp_path / "dom.html"
    dom.write_text(browse(path, f"#{quote(name, safe='')}", "--dump-dom"), encoding="utf-8")
    page = Page(dom)
    assert [e[1]["href"][1:] for e in page.all("a")] == [
        quote(one, safe="!~*'()") for one in ("one", name, "three")
    ]
    assert "open" in page.all("dialog")[0][1]
    assert page.all("h2", id="viewer-name")[0][2] == name
    assert page.all("img", id="left-image")[0][1]["alt"] == f"LR of {name}"
    assert page.all("img", id="right-image")[0][1]["src"] == page.all("script", id="p1-1")[0][2]
    assert page.all("input", id="handle")[0][1]["aria-valuetext"] == "50 % LR, the rest ours"


def test_a_browser_opens_no_image(tmp_path, browse):
    path = report.write(tmp_path, [result()], views)
    for fragment in ("#none", "#%"):
        assert '<dialog id="viewer" aria-labelledby="viewer-name">' in browse(
            path, fragment, "--dump-dom"
        )


ACTIONS = """
(async () => {
  const $ = (id) => document.getElementById(id);
  const rest = () => new Promise((done) => setTimeout(done, 100));
  const names = () => [...document.querySelectorAll("#images tbody a")].map((a) => a.textContent);
  const sorts = () =>
    [...document.querySelectorAll("#images th[aria-sort]")].map((head) => head.ariaSort);
  const pick = (id, value) => {
    $(id).value = value;
    $(id).dispatchEvent(new Event($(id).localName === "input" ? "input" : "change"));
  };
  const sort = (n) => document.querySelectorAll("#images thead button")[n].click();
  const shown = (side) => document.querySelector(`#${side}-image`).alt;
  const said = {};
  sort(2); said.best = [names(), sorts()];
  sort(2); said.worst = [names(), sorts()];
  sort(3); said.missing_last = names();
  sort(0); pick("filter", "T"); said.filtered = [names(), $("shown").textContent];
  pick("system", "1"); said.system = document.querySelector("#images tbody tr").textContent;
  document.querySelector("#images tbody td").click(); await rest();
  said.opened = [location.hash, document.activeElement.id, $("handle").value];
  const clip = () => getComputedStyle($("left-image")).clipPath;
  pick("handle", 41); said.moved = clip(); pick("handle", 100); said.end = clip();
  const legends = () => [...document.querySelectorAll(".legend")].map((one) => one.hidden);
  said.no_legend = legends();
  pick("right", "confidence"); said.map = [shown("left"), shown("right"), ...legends()];
  pick("right", "error of ours"); said.error = [shown("right"), ...legends()];
  pick("left", "HR"); $("swap").click(); said.swapped = [shown("left"), $("right").value];
  pick("zoom", "4"); said.wide = $("stage").style.width;
  $("next").click(); await rest(); said.next = [location.hash, $("next").disabled];
  $("close").click();
  $("viewer").dispatchEvent(new Event("close")); // comes with a frame; virtual time awaits none
  said.closed = [location.hash, document.activeElement.textContent];
  document.body.dataset.said = JSON.stringify(said);
})();
"""


def test_everything_can_be_clicked(tmp_path, browse):
    path = report.write(tmp_path, [result(), result("bicubic", psnr=(1.0, 2.0, 21.5))], views)
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"script-src '[^']*'", "script-src 'unsafe-inline'", text)
    path.write_text(text.replace("</body>", f"<script>{ACTIONS}</script></body>"), encoding="utf-8")
    dom = tmp_path / "dom.html"
    dom.write_text(browse(path, "", "--dump-dom"), encoding="utf-8")
    assert json.loads(Page(dom).all("body")[0][1]["data-said"]) == {
        "best": [["two", "one", "three"], ["descending"]],
        "worst": [["three", "one", "two"], ["ascending"]],
        "missing_last": ["one", "two", "three"],
        "filtered": [["three", "two"], "2 of 3"],
        "system": "three7.000021.50–40 × 24",
        "opened": ["#three", "handle", "50"],
        "moved": "inset(0px 59% 0px 0px)",
        "end": "inset(0px 0% 0px 0px)",
        "no_legend": [True, True],
        "map": ["LR of three", "confidence of three", True, False],
        "error": ["error of ours of three", False, True],
        "swapped": ["error of ours of three", "HR"],
        "wide": "160px",
        "next": ["#two", True],
        "closed": ["", "three"],
    }


@pytest.mark.parametrize("fragment", ["", "#one"])
def test_screenshots_in_light_and_dark(tmp_path, browse, fragment):
    path = report.write(tmp_path, [result()], views)
    corners = []
    for scheme in (1, 0):
        target = tmp_path / f"{scheme}.png"
        browse(
            path,
            fragment,
            f"--screenshot={target}",
            "--window-size=900,1200",
            f"--blink-settings=preferredColorScheme={scheme}",
        )
        shot = np.asarray(Image.open(target).convert("RGB"))
        assert shot.shape == (1200, 900, 3)
        assert len(np.unique(shot @ [65536, 256, 1])) > 200  # text, and pictures in colour
        assert np.ptp(shot, axis=2).max() > 60
        corners.append(shot[2, 2].mean())
    assert corners[0] > 200 and corners[1] < 60
