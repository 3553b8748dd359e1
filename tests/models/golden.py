"""Numbers that public code gave, kept as .npz beside the tests, and how they are compared."""

import json

import numpy as np


def read(path, texts):
    """The stored arrays, and the ``texts`` among them decoded."""
    with np.load(path) as file:
        stored = dict(file)
    return stored | {name: json.loads(stored[name].tobytes()) for name in texts}


def write(path, found, texts):
    """Stores arrays, and what JSON can hold under the names ``texts``."""
    packed = {name: np.frombuffer(json.dumps(found[name]).encode(), np.uint8) for name in texts}
    np.savez_compressed(path, **found | packed)


def agree(found, expected, tolerance=2e-4):
    """Asserts max |a − b| / max |b|."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


def same(stored, fresh, texts):
    """Asserts that an oracle gives the stored numbers again, and its texts letter by letter."""
    assert stored.keys() == fresh.keys()
    for name in stored:
        if name in texts:
            assert stored[name] == fresh[name]
        else:
            agree(fresh[name], stored[name], 1e-5)
