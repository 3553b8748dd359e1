"""Restores images with a SavedModel; a script that needs only TensorFlow and NumPy.

    python -P loader.py FOLDER IMAGES.npz RESTORED.npz [SEED]

Each image NAME, uint8 [H, W, 3], gives NAME/image and the other outputs of the signature `image`,
and NAME/encoded, the result of `serving_default` for the image as a PNG. `errors` are the messages
of `serving_default` for the images and for bytes that are no image, `empty` is the number of
images returned for no tiles. SEED is for signatures that take one.
"""

import sys
from typing import Any

import numpy as np
import tensorflow as tf


def main(folder: str, given: str, made: str, *seed: str) -> None:
    """Loads the SavedModel and restores the images of a file."""
    restore(tf.saved_model.load(folder).signatures, given, made, *seed)


def restore(signatures: Any, given: str, made: str, *seed: str) -> None:
    """Restores the images of a file by `signatures`."""
    drawn = {"seed": tf.constant(int(seed[0]), tf.uint32)} if seed else {}
    found = {}
    encoded: list[bytes] = []
    with np.load(given) as images:
        names = images.files
        for name in names:
            image = tf.constant(images[name])
            for key, value in signatures["image"](image=image, **drawn).items():
                found[f"{name}/{key}"] = value.numpy()
            encoded.append(tf.io.encode_png(image).numpy())
    # without the last, which is large: decoding and encoding are tested by the others
    several = [*encoded[:-1], b"no image"]
    seeds = {name: tf.fill([len(several)], value) for name, value in drawn.items()}
    response = signatures["serving_default"](image_bytes=tf.constant(several), **seeds)
    for name, png in zip(names, response["image_bytes"].numpy()[:-1], strict=False):
        found[f"{name}/encoded"] = tf.io.decode_png(png).numpy()
    found["errors"] = np.array([error.decode() for error in response["error"].numpy()])
    tiles = signatures["tiles"].structured_input_signature[1]["tiles"]
    nothing = signatures["tiles"](tiles=tf.zeros([0, *tiles.shape[1:]]), **drawn)
    found["empty"] = np.array(len(nothing["image"]))
    np.savez(made, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
