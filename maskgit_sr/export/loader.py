"""Restores pictures by a SavedModel, with TensorFlow and NumPy alone; run as a script.

    python -P export_load.py FOLDER PICTURES.npz RESTORED.npz

For every picture NAME, uint8 [H, W, 3], there are NAME/image, NAME/confidence and NAME/tokens of
the signature `image`, and NAME/encoded, what `serving_default` makes of the picture as a PNG.
`errors` is what it says of the pictures and of bytes that are none, `empty` the number of images
that no tiles give.
"""

import sys
from typing import Any

import numpy as np
import tensorflow as tf


def main(folder: str, given: str, made: str) -> None:
    """Does it."""
    restore(tf.saved_model.load(folder).signatures, given, made)


def restore(signatures: Any, given: str, made: str) -> None:
    """From file to file."""
    found = {}
    encoded: list[bytes] = []
    with np.load(given) as pictures:
        names = pictures.files
        for name in names:
            picture = tf.constant(pictures[name])
            for key, value in signatures["image"](image=picture).items():
                found[f"{name}/{key}"] = value.numpy()
            encoded.append(tf.io.encode_png(picture).numpy())
    # the last is large; what decoding and encoding do shows in the others
    several = [*encoded[:-1], b"no picture"]
    answer = signatures["serving_default"](image_bytes=tf.constant(several))
    for name, png in zip(names, answer["image_bytes"].numpy()[:-1], strict=False):
        found[f"{name}/encoded"] = tf.io.decode_png(png).numpy()
    found["errors"] = np.array([error.decode() for error in answer["error"].numpy()])
    tiles = signatures["tiles"].structured_input_signature[1]["tiles"]
    nothing = signatures["tiles"](tiles=tf.zeros([0, *tiles.shape[1:]]))
    found["empty"] = np.array(len(nothing["image"]))
    np.savez(made, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
