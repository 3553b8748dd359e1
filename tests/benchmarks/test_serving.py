"""The load test's bodies are what it takes them for."""

import pytest

pytest.importorskip("httpx", reason="needs httpx")

from benchmarks import serving
from maskgit_sr import images
from maskgit_sr.errors import UserError
from maskgit_sr.images.decode import TooManyPixels


def test_cases():
    cases = serving.cases()
    assert len({case.name for case in cases}) == len(cases)
    pictures = []
    for case in cases:
        if case.status in (200, 422):
            pictures.append(images.from_bytes(case.body, limit=serving.MAX_PIXELS))
        else:
            with pytest.raises(UserError) as found:
                images.from_bytes(case.body, limit=serving.MAX_PIXELS)
            assert found.errisinstance(TooManyPixels) == (case.status == 413)
    assert {picture.grey for picture in pictures} == {True, False}
    assert {picture.alpha is None for picture in pictures} == {True, False}
    assert {str(picture.color.dtype) for picture in pictures} == {"uint8", "uint16"}
    assert {(1, 1), (120, 160)} <= {picture.color.shape[:2] for picture in pictures}
