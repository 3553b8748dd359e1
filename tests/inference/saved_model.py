"""What a server does with a SavedModel, in a process with TensorFlow alone.

    saved_model.py FOLDER ARRAYS.npz FILES ANSWERS

Writes `answers.npz`, `answers.json` and a PNG for each file of the folder FILES.
"""

import json
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


def main(folder, arrays, files, answers):
    signatures = tf.saved_model.load(folder).signatures
    arrays = np.load(arrays)
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

    paths = sorted(Path(files).iterdir())
    answer = signatures["serving_default"](
        image_bytes=tf.constant([path.read_bytes() for path in paths])
    )
    told["errors"] = {}
    rows = zip(paths, answer["image_bytes"].numpy(), answer["error"].numpy(), strict=True)
    for path, png, error in rows:
        told["errors"][path.name] = error.decode()
        Path(answers, f"{path.name}.png").write_bytes(png)
    empty = signatures["serving_default"](image_bytes=tf.constant([], tf.string))
    told["empty"] = [len(value) for value in empty.values()]
    np.savez(Path(answers, "answers.npz"), **found)
    Path(answers, "answers.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
