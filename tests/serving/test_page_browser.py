"""The page as a person uses it, in headless Chromium: drop, progress, slider, download, reload."""

import base64
import io
import os
import shutil
import time
import zipfile

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("httpx", reason="needs httpx")
pytest.importorskip("selenium", reason="needs selenium")

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.serving.models import Watched, pixels
from tests.serving.serving import LONG, expected, png, serve, until

# files of these names and contents arrive as if they were dragged onto the page
DROP = """
const data = new DataTransfer();
for (const [name, base64] of arguments[0]) {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  data.items.add(new File([bytes], name));
}
for (const kind of ["dragenter", "dragover", "drop"]) {
  const how = { bubbles: true, cancelable: true, dataTransfer: data };
  document.body.dispatchEvent(new DragEvent(kind, how));
}
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A browser whose downloads are in `browser.folder`."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    binary = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    driver = os.environ.get("CHROMEDRIVER") or shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("needs chromium and chromedriver on PATH, or CHROMIUM and CHROMEDRIVER")
    folder = tmp_path_factory.mktemp("downloads")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{flag}")
    options.add_argument("--window-size=1200,900")
    options.add_experimental_option("prefs", {"download.default_directory": str(folder)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    found.folder = folder
    yield found
    found.quit()


class Page:
    """The page of a server in a browser."""

    def __init__(self, browser, served):
        self.browser = browser
        browser.get(f"http://127.0.0.1:{served.port}/")
        self.ready()

    def ready(self):
        until(lambda: self.script("return document.documentElement.dataset.ready"))

    def script(self, text, *given):
        return self.browser.execute_script(text, *given)

    def one(self, selector):
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def texts(self, selector):
        return [found.text for found in self.browser.find_elements(By.CSS_SELECTOR, selector)]

    def drop(self, **files):
        named = [(name, base64.b64encode(data).decode()) for name, data in files.items()]
        self.script(DROP, named)

    def downloaded(self, name):
        path = self.browser.folder / name
        until(lambda: path.exists() and path.stat().st_size)
        data = path.read_bytes()
        path.unlink()
        return data

    def errors(self):
        """What the console says beside failed requests, which are ours on purpose."""
        return [
            line["message"]
            for line in self.browser.get_log("browser")
            if "Failed to load resource" not in line["message"]
        ]


def test_what_a_person_does(browser):
    upscaler = Watched(batch=2)
    first, second = png(pixels(30, 40)), png(pixels(20, 20, seed=1))
    with serve(upscaler, token="secret") as served:
        page = Page(browser, served)
        assert page.one("#model").text == "nearest · ×4"

        # two at once, and a file that is no picture; the token is asked for once
        upscaler.hold()
        page.drop(**{"a.png": first, "b.jpg": second, "notes.txt": b"no picture"})
        until(lambda: page.one("#ask").is_displayed())
        page.one("#token").send_keys("wrong", Keys.ENTER)
        until(lambda: page.one("#wrong").text == "That is not the server's token.")
        page.one("#token").send_keys("secret", Keys.ENTER)
        until(lambda: served.service.requests == 2)
        assert page.texts("#list b") == ["a.png", "b.jpg", "notes.txt"]

        # progress, in tiles and as a bar
        upscaler.breaks = lambda lr: time.sleep(0.05)
        upscaler.gate.set()
        until(lambda: "tiles" in page.texts("#list .state")[0])
        until(lambda: 0 < float(page.one("#list progress").get_attribute("value") or 0) < 1)
        upscaler.hold()
        assert "of 63 tiles" in page.texts("#list .state")[0]

        # a reload finds what was going on, and begins nothing anew
        begun = served.count(202)
        browser.refresh()
        page.ready()
        assert page.texts("#list b") == ["a.png", "b.jpg", "notes.txt"]
        upscaler.gate.set()
        until(lambda: len(browser.find_elements(By.CSS_SELECTOR, "li.done")) == 2)
        until(lambda: browser.find_elements(By.CSS_SELECTOR, "li.failed"))
        assert served.count(202) <= begun + 1  # the third may have waited for its turn
        line = page.texts("li.failed .state")[0]
        assert line == served_line(served)
        until(lambda: line in page.script("return document.getElementById('alert').textContent"))

        # results are kept in the browser, and forgotten by the server
        until(lambda: served.service.transfers.held == 0)

        # list and slider by keyboard
        page.one("#list .row").click()
        until(lambda: page.one("#name").text == "a.png" and page.one("#after").is_displayed())
        assert "40 × 30 → 160 × 120" in page.one("#facts").text
        page.one("#list .row").send_keys(Keys.ARROW_DOWN)
        assert page.script("return document.activeElement.textContent").strip().startswith("b.jpg")
        handle = page.one("#handle")
        cut = clip(page)
        handle.send_keys(*[Keys.ARROW_RIGHT] * 10)
        assert handle.get_attribute("value") == "60"
        assert handle.get_attribute("aria-valuetext") == "60 % before, the rest after"
        assert clip(page) > cut
        handle.send_keys("1")
        assert page.one("#zoom").text == "100 %"
        handle.send_keys("lc")
        assert page.one("#lens").is_displayed() and page.one("#map").is_displayed()

        # downloads are the upscaler's own bytes
        page.one("#save").click()
        assert page.downloaded("a_x4.png") == expected(upscaler, first)
        page.one("#all").click()
        with zipfile.ZipFile(io.BytesIO(page.downloaded("maskgit-sr.zip"))) as archive:
            assert archive.testzip() is None and archive.namelist() == ["a_x4.png", "b_x4.png"]
            assert archive.read("b_x4.png") == expected(upscaler, second)
        assert page.errors() == []


def served_line(served):
    """What the server, as the command line, says of a file that is no picture."""
    headers = {"Authorization": "Bearer secret"}
    return served.client.post("/upscale", content=b"no picture", headers=headers).json()["error"]


def clip(page):
    """Pixels of the picture that are shown as they were before."""
    text = page.script("return document.getElementById('before').style.clipPath")
    return float(text.split("100% - ")[1].split("px")[0])


def test_a_lost_connection(browser):
    """The server goes while it restores; another comes, and the work is begun anew."""
    upscaler = Watched(batch=1)
    data = png(np.full((12, 12, 3), 9, np.uint8))
    with serve(upscaler) as served:
        page = Page(browser, served)
        upscaler.hold()
        page.drop(**{"a.png": data})
        assert upscaler.entered.wait(LONG)
        port = served.port
    until(lambda: page.one("#banner").is_displayed())
    assert "No connection to the server" in page.one("#banner").text
    with serve(upscaler, port=port) as served:
        until(lambda: browser.find_elements(By.CSS_SELECTOR, "li.done"))
        assert not page.one("#banner").is_displayed()
        page.one("#list .save").click()
        assert page.downloaded("a_x4.png") == expected(upscaler, data)
        page.one("#clear").click()
        assert page.one("main").get_attribute("class") == "empty" and page.errors() == []
