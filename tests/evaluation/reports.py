"""Results to report on, and what the page made of them says."""

import base64
import io
import json
from html.parser import HTMLParser

import numpy as np
from PIL import Image

from maskgit_sr.evaluation.report import page as report
from tests.inference.pictures import gradient, noise

NASTY = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</script><!-- ' & {{data}} 100%",
    "ünï/\u2028 \udcff",
]
METRICS = {
    "niqe": {"better": "lower", "unit": "", "needs": "none", "text": "luma; lower is better"},
    "psnr_rgb": {"better": "higher", "unit": "dB", "needs": "reference", "text": "RGB, peak 1"},
    "lpips_alex": {"better": "lower", "unit": "", "needs": "reference", "text": "AlexNet"},
    "fid": {"better": "lower", "unit": "", "needs": "set", "text": "Inception"},
}
NAMES = ["one", "two", "three"]


def result(system="ours", names=NAMES, psnr=(24.125, 30.0, 20.5), **changes):
    rows = []
    for index, name in enumerate(names):
        value = psnr[index % len(psnr)]
        scores = {"niqe": 5.0 + index, "psnr_rgb": value, "lpips_alex": None if index else 0.25}
        rows.append({"name": name, "height": 24, "width": 40, "scores": scores, "notes": []})
    summary = {
        "niqe": {"mean": 6.0, "low": 5.0, "high": 7.0, "n": len(rows)},
        "psnr_rgb": {"mean": sum(psnr) / len(psnr), "low": -1.5, "high": 27.0, "n": len(rows)},
        "lpips_alex": {"mean": 0.25, "low": None, "high": None, "n": 1},
        "fid": {"mean": 80.0, "low": None, "high": None, "n": len(rows)},
    }
    made = {
        "system": system,
        "protocol": {"name": "realsrt", "text": "", "crop": 0, "border": 4, "metrics": METRICS},
        "source": {"sr": f"runs/{system}", "hr": "hr", "lr": None},
        "versions": {"maskgit_sr": "0.1.0", "jax": "0.10.2"},
        "hardware": "cpu, 2 cores",
        "images": rows,
        "problems": [],
        "summary": summary,
        "counts": {"scored": len(rows), "of": len(rows) + 1},
    }
    return {"format": 1, "kind": "maskgit_sr scores", **made, **changes}


def views(name):
    hr = gradient()
    ours = hr + np.uint8(3)
    small = noise(6, 10, 3)
    return {"LR": small, "ours": ours, "HR": hr, "confidence": noise(3, 5, 0)}


class Page(HTMLParser):
    """All elements of a page as (tag, attributes, text that directly follows the start tag)."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.inside = [], False
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag, attrs):
        self.elements.append([tag, dict(attrs), ""])
        self.inside = True

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.elements[-1][2] += data

    def all(self, tag, **attributes):
        wanted = attributes.items()
        return [
            e for e in self.elements if e[0] == tag and all(e[1].get(k) == v for k, v in wanted)
        ]

    def json(self, key):
        return json.loads(self.all("script", id=key)[0][2])

    def picture(self, key):
        head, data = self.all("script", id=key)[0][2].split(",")
        image = Image.open(io.BytesIO(base64.b64decode(data)))
        assert head == f"data:image/{image.format.lower()};base64"
        return np.asarray(image)


def written(folder, *results, views=views, **options):
    return Page(report.write(folder, results or [result()], views, **options))
