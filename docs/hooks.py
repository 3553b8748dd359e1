"""Hooks of mkdocs.yml: links that leave docs/ lead to the repository."""

import os
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ADDRESS = PROJECT["urls"]["Repository"]


def on_config(config):
    config["copyright"] = f'{PROJECT["license"]}, <a href="{ADDRESS}">{ADDRESS[8:]}</a>'


def on_page_markdown(markdown, page, config, files):
    def leave(match):
        path, anchor = match[1], match[2] or ""
        target = Path(os.path.normpath(Path(config.docs_dir, page.file.src_uri).parent / path))
        if not target.is_relative_to(ROOT) or not target.exists():
            raise SystemExit(f"{page.file.src_uri}: no such file: {path}")
        return f"]({ADDRESS}/blob/HEAD/{target.relative_to(ROOT).as_posix()}{anchor})"

    return re.sub(r"\]\((\.\./[^)#\s]+)(#[^)\s]*)?\)", leave, markdown)


def on_page_content(html, **_):
    return re.sub(r":(?:meth|func|class|mod):(?=<code>)", "", html)  # roles of Sphinx
