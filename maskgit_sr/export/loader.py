"""Restores images by a SavedModel, with TensorFlow and NumPy alone; run as a script.

    python -P loader.py FOLDER IMAGES.npz RESTORED.npz [SEED]

For every image NAME, uint8 [H, W, 3], there are NAME/image and so on of the signature `image`, and
NAME/encoded, what `serving_default` makes of the image as a PNG. `errors` is what it says of the
images and of bytes that are none, `empty` the number of images that no tiles give. SEED is for
signatures that take one.
"""

import sys
from typing import Any

import numpy as np
import tensorflow as tf


def main(folder: str, given: str, made: str, *seed: str) -> None:
    """Loads the SavedModel, and restores from file to file."""
    restore(tf.saved_model.load(folder).signatures, given, made, *seed)


def restore(signatures: Any, given: str, made: str, *seed: str) -> None:
    """Restores from file to file."""
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
    # the last is large; what decoding and encoding do shows in the others
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
