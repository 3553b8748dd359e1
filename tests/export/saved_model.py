"""What a server does with a SavedModel, in a process with TensorFlow alone.

Stands in for `export/loader.py`, which it runs first: importing TensorFlow, loading and compiling
once is slow enough. Then it reads `arrays.npz` and `files/` of the folder TESTED in the
environment, and writes `answers.npz`, `answers.json` and a PNG for each file below `answers/`. Of
a stochastic artifact, whose seed it is given, it restores one image with several seeds instead.
"""

import json
import os
import runpy
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf


def reason(call, **arguments):
    """What a call says that must fail."""
    try:
        call(**arguments)
    except (ValueError, TypeError, tf.errors.OpError) as error:
        return str(error)
    return ""


def main(folder, *paths):
    signatures = tf.saved_model.load(folder).signatures
    runpy.run_path(os.environ["LOADER"])["restore"](signatures, *paths)
    tested = Path(os.environ["TESTED"])
    if len(paths) > 2:
        draw(signatures, tested)
        return
    answers = tested / "answers"
    arrays = np.load(tested / "arrays.npz")
    found, told = {}, {}

    def note(name, outputs):
        found.update({f"{name}/{key}": value.numpy() for key, value in outputs.items()})

    tiles = arrays["tiles"]
    note("tiles", signatures["tiles"](tiles=tf.constant(tiles / np.float32(255))))
    note("tiles_uint8", signatures["tiles_uint8"](tiles=tf.constant(tiles)))
    note("none", signatures["tiles"](tiles=tf.zeros([0, *tiles.shape[1:]])))
    for name in arrays.files:
        if name != "tiles":
            note(name, signatures["image"](image=tf.constant(arrays[name])))

    image = signatures["image"]
    told["no pixel"] = reason(image, image=tf.zeros([0, 5, 3], tf.uint8))
    told["too many pixels"] = reason(image, image=tf.zeros([200, 200, 3], tf.uint8))
    told["dtype"] = reason(image, image=tf.zeros([5, 5, 3], tf.float32))
    told["rank"] = reason(image, image=tf.zeros([5, 5], tf.uint8))

    paths = sorted((tested / "files").iterdir())
    answer = signatures["serving_default"](
        image_bytes=tf.constant([path.read_bytes() for path in paths])
    )
    told["errors"] = {}
    rows = zip(paths, answer["image_bytes"].numpy(), answer["error"].numpy(), strict=True)
    for path, png, error in rows:
        told["errors"][path.name] = error.decode()
        (answers / f"{path.name}.png").write_bytes(png)
    empty = signatures["serving_default"](image_bytes=tf.constant([], tf.string))
    told["empty"] = [len(value) for value in empty.values()]
    np.savez(answers / "answers.npz", **found)
    (answers / "answers.json").write_text(json.dumps(told))


def draw(signatures, tested):
    arrays = np.load(tested / "arrays.npz")
    seeds = tf.constant(arrays["seeds"], tf.uint32)
    image, tiles = tf.constant(arrays["image"]), tf.constant(arrays["tiles"])
    drawn = [signatures["image"](image=image, seed=seed)["image"] for seed in seeds]
    encoded = signatures["serving_default"](
        image_bytes=tf.repeat(tf.io.encode_png(image), len(seeds)), seed=seeds
    )
    np.savez(
        tested / "drawn.npz",
        image=np.stack(drawn),
        encoded=np.stack([tf.io.decode_png(png).numpy() for png in encoded["image_bytes"]]),
        tiles=signatures["tiles"](tiles=tiles, seed=seeds[0])["image"],
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
