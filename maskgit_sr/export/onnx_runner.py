"""Restores images with this artifact; needs only onnxruntime and numpy.

    python run.py IMAGES RESTORED.npz

IMAGES is a .npy file of float32 in [0, 1] or uint8, [H, W, 3] or [N, H, W, 3], RGB. RESTORED has
image float32, not clipped, `scale` times as high and wide. IMAGES may be a .npz file of several
such arrays; the output of NAME is then NAME/image.
"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime


def load(folder: Path, threads: int = 0) -> onnxruntime.InferenceSession:
    """Returns a session on the CPU; `threads` 0: as many as there are cores."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    path = str(folder / "model.onnx")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def restore(session: onnxruntime.InferenceSession, images: np.ndarray) -> np.ndarray:
    """Returns images [N, H, W, 3], or one [H, W, 3], restored."""
    x = images / np.float32(255) if images.dtype == np.uint8 else images.astype(np.float32)
    (restored,) = session.run(None, {"image": x if x.ndim == 4 else x[None]})
    return restored if x.ndim == 4 else restored[0]


def main(source: str, target: str) -> None:
    """Restores the images of a file."""
    session, given = load(Path(__file__).parent), np.load(source)
    named = (
        {"image": given}
        if isinstance(given, np.ndarray)
        else {f"{k}/image": given[k] for k in given}
    )
    found = {name: restore(session, images) for name, images in named.items()}
    np.savez(target, **found)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(*sys.argv[1:])
