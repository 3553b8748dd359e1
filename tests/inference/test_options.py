"""inference.options: text becomes what a method's options are made of."""

import dataclasses
from types import SimpleNamespace

import pytest

from maskgit_sr.errors import UserError
from maskgit_sr.inference import options
from maskgit_sr.methods.base import RestoreOptions
from maskgit_sr.methods.registry import METHODS
from tests.methods.small import build


@dataclasses.dataclass(frozen=True)
class Options(RestoreOptions):
    """Of every type."""

    steps: int = 4
    eta: float | None = None
    rule: str = "critic"
    control: bool = True


def upscaler_of(method):
    return SimpleNamespace(method=method, options=method.options)


UPSCALER = upscaler_of(SimpleNamespace(name="some", options=Options))


def test_text_gets_the_type_of_the_field():
    given = options.split(["eta=2", "rule=a=b", "control=FALSE"], steps=8, color_fix=None)
    values = {"steps": 8, "eta": 2.0, "rule": "a=b", "control": False}
    assert options.parse(given, UPSCALER) == values
    assert options.parse({}, UPSCALER) == {}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_takes_its_own_defaults_as_text(name, tiny, losses):
    method = build(name, tiny, losses)
    defaults = method.options()
    given = {option: str(value) for option, value in options.table(defaults).items()}
    assert "confidence" not in given
    assert method.options(**options.parse(given, upscaler_of(method))) == defaults


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("steps", "--option: expected NAME=VALUE, found 'steps'"),
        ("=4", "--option: expected NAME=VALUE, found '=4'"),
        ("a b=4", "--option: expected NAME=VALUE, found 'a b=4'"),
        ("eta=2", "--option: expected eta once, found it twice"),
        ("stpes=4", "stpes: some has no such option; expected one of color_fix, steps, eta, rule"),
        ("confidence=true", "confidence: some has no such option"),
        ("steps=4.5", "steps: expected a whole number, found '4.5'"),
        ("eta=", "eta: expected a number, found ''"),
        ("control=yes", "control: expected true or false, found 'yes'"),
    ],
)
def test_mistakes(word, message):
    with pytest.raises(UserError, match=message):
        options.parse(options.split([word], eta=1.0 if word == "eta=2" else None), UPSCALER)
