"""Image files and arrays, on the host: NumPy, Pillow and OpenCV only, so that `data` may use it."""

from maskgit_sr.images.picture import (
    MAX_PIXELS,
    WRITABLE,
    Picture,
    check_kind,
    check_target,
    from_array,
    from_bytes,
    from_confidence,
    from_pil,
    read,
    resize,
    to_array,
    to_bytes,
    to_pil,
    write,
)

__all__ = [
    "MAX_PIXELS",
    "WRITABLE",
    "Picture",
    "check_kind",
    "check_target",
    "from_array",
    "from_bytes",
    "from_confidence",
    "from_pil",
    "read",
    "resize",
    "to_array",
    "to_bytes",
    "to_pil",
    "write",
]
