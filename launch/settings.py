"""Command line of the trainer: config files, overrides, their checks, and the listing of fields."""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import importlib.util
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from configs import common
from maskgit_sr.errors import UserError
from maskgit_sr.methods import registry


def load(name: str) -> ml_collections.ConfigDict:
    """Returns the config of ``FILE.py`` or ``FILE.py:ARGUMENT``.

    Fields that it leaves out of ``model`` and ``losses`` get the method's defaults, so that every
    field can be listed and overridden.

    Raises:
        UserError: no such file, an argument that it refuses, or settings that the method refuses.
    """
    file, _, argument = name.partition(":")
    if not Path(file).is_file():
        raise UserError(f"--config: no such file: {file!r}")
    spec = importlib.util.spec_from_file_location("maskgit_sr_config", Path(file))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    try:
        config: ml_collections.ConfigDict = module.get_config(argument or None)
        method = registry.build(config.method, config.model.to_dict(), None, losses(config))
    except (TypeError, ValueError) as error:
        raise UserError(f"--config {name}: {error}") from None
    config.model = ml_collections.ConfigDict(method.describe())
    config.losses = ml_collections.ConfigDict(dataclasses.asdict(method.losses))
    return config


def losses(config: Any, stage: str = "") -> dict[str, Any]:
    """Returns the settings of the training losses, overridden by a stage's own."""
    found = config.losses.copy_and_resolve_references()
    if stage:
        with found.unlocked():
            found.update(config.stages[stage].losses)
    plain: dict[str, Any] = found.to_dict()
    return plain


def parse(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> list[str]:
    """Parses the flags of the command; ``--config FILE`` and its ``--config.a.b=value`` become the
    flag ``config``, which is not defined without ``--config``.

    Returns:
        The arguments that are not flags.

    Raises:
        UserError: any mistake in the arguments.
    """
    words, name = _without_config(list(argv))
    if name:
        config = load(name)
        check_paths(words, config)
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=words)
    try:
        return values(words)
    except (flags.Error, TypeError, ValueError) as error:
        # absl puts whole tracebacks into its messages, of which the last line states the mistake.
        text = str(error)
        line = text.strip().splitlines()[-1] if "Traceback" in text else " ".join(text.split())
        raise UserError(line) from None


def _without_config(words: list[str]) -> tuple[list[str], str]:
    """Returns the words without ``--config FILE`` or ``--config=FILE``, and FILE or ""."""
    for index, word in enumerate(words):
        option, equals, value = word.partition("=")
        if option in ("--config", "-config"):
            if equals:
                return words[:index] + words[index + 1 :], value
            if index + 1 == len(words):
                raise UserError("--config: expected FILE.py or FILE.py:ARGUMENT, found nothing")
            return words[:index] + words[index + 2 :], words[index + 1]
    return words, ""


def check_paths(words: Sequence[str], config: Any) -> None:
    """Checks that the config has every field that is overridden.

    Raises:
        UserError: an unknown field, with the nearest one and those there are.
    """
    for word in words:
        match = re.fullmatch(r"--?config\.([^=]+)(=.*)?", word, re.DOTALL)
        if match is None:
            continue
        node: Any = config
        for depth, name in enumerate(path := match[1].split(".")):
            known = list(node) if isinstance(node, ml_collections.ConfigDict) else []
            if name not in known:
                nearest = difflib.get_close_matches(name, known, 1, 0.5)
                hint = f"nearest: {nearest[0]}; " if nearest else ""
                there = ".".join(["config", *path[:depth]])
                fields = ", ".join(known) or "no fields"
                raise UserError(f"--config.{match[1]}: no such field; {hint}{there} has {fields}")
            node = node[name]


def listing(config: Any) -> Iterator[str]:
    """Yields a line for every field: its path, value and meaning."""
    method = registry.METHODS[config.method]
    documented = {
        **meanings(method.config_class, "model"),
        **meanings(method.losses_class, "losses"),
    }
    for path, value in fields(config):
        meaning = documented.get(path) or next(
            (text for name, text in common.MEANINGS.items() if fnmatch.fnmatch(path, name)), ""
        )
        yield f"--config.{path}={value!r}  # {meaning}"


def fields(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (path, value) of every leaf field; an empty mapping counts as a leaf."""
    for name, value in tree.items():
        path = f"{prefix}.{name}" if prefix else name
        if isinstance(value, Mapping | ml_collections.ConfigDict) and len(value):
            yield from fields(value, path)
        else:
            yield path, value.to_dict() if isinstance(value, ml_collections.ConfigDict) else value


def meanings(cls: Any, prefix: str) -> dict[str, str]:
    """Returns the first sentence on each field in the docstrings of a dataclass, by path."""
    found: dict[str, str] = {}
    # Reversed, so that a subclass's own words win over those it inherits.
    for base in reversed(cls.__mro__[:-1]):
        _, _, text = (inspect.cleandoc(base.__doc__ or "")).partition("Attributes:\n")
        text = text.partition("\nRaises:")[0]
        for names, meaning in re.findall(r"^    ([\w, ]+): (.*(?:\n {8}.*)*)", text, re.MULTILINE):
            sentence = re.split(r"(?<=[.;])\s", " ".join(meaning.split()))[0].rstrip(".;")
            found |= {f"{prefix}.{name.strip()}": sentence for name in names.split(",")}
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(field.default):
            found |= meanings(type(field.default), f"{prefix}.{field.name}")
    return found
