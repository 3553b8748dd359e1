"""What tests of training share."""

import cv2
import numpy as np
import pytest


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Eight smooth pictures with edges."""
    root = tmp_path_factory.mktemp("photos")
    y, x = np.mgrid[:96, :128]
    for index, angle in enumerate((0.1, 0.25, 0.17, 0.3, 0.14, 0.2, 0.12, 0.28)):
        waves = np.sin(angle * x + 0.05 * y)[..., None] * [60, 90, 40] + 128
        waves[30:60, 40:80] = [200, 180, 20 + 25 * index]
        cv2.imwrite(str(root / f"{index}.png"), waves.astype(np.uint8))
    return root
