"""Bodies of requests, and what the server has to make of them."""

import io

import numpy as np
from PIL import Image, ImageCms

from maskgit_sr.images import from_array, from_bytes, to_bytes
from tests.serving.models import pixels

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def png(array):
    return to_bytes(from_array(array), "PNG")[0]


def turned_jpeg():
    """With a profile and the orientation that a camera held upright writes."""
    image = Image.fromarray(pixels(9, 14))
    exif = Image.Exif()
    exif[271], exif[274] = "Maker", 6
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif.tobytes(), icc_profile=ICC)
    return buffer.getvalue()


def palette_gif():
    buffer = io.BytesIO()
    frames = [Image.fromarray(pixels(6, 7, seed=n)).convert("P") for n in range(2)]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


PICTURES = {
    "rgb": png(pixels(20, 13)),
    "one pixel": png(pixels(1, 1)),
    "row": png(pixels(1, 60)),
    "grey": png(pixels(8, 9, 1)),
    "grey and alpha": png(pixels(8, 9, 2)),
    "alpha": png(pixels(11, 6, 4)),
    "16 bits": png(pixels(7, 5).astype(np.uint16) * 257 + 3),
    "jpeg": turned_jpeg(),
    "webp": to_bytes(from_array(pixels(10, 10, 4)), "WEBP")[0],
    "tiff": to_bytes(from_array(pixels(5, 12)), "TIFF")[0],
    "gif": palette_gif(),
}


def expected(upscaler, data, kind="PNG", quality=95, **options):
    """What the upscaler makes of it in this thread."""
    restored = upscaler.restore(from_bytes(data), confidence=False, **options)
    return to_bytes(restored.picture, kind, quality=quality)[0]


def expect_error(answer, status, message):
    assert answer.status_code == status, answer.text
    found = answer.json()
    assert set(found) == {"error"} and "\n" not in found["error"]
    assert message in found["error"], found
