"""Consistency of an output with its LR input: the output is shrunk and compared with it.

The output is shrunk by `ops.resize.downsample_bicubic`, MATLAB's antialiased bicubic, unrounded and
unclipped but for `lr_psnr_ntire`. That is the degradation only of LR images made in this way: for
real pairs the scores say little.
"""

import jax.numpy as jnp
import numpy as np

from maskgit_sr.arrays import Image
from maskgit_sr.metrics.pixel import Score, on_host, psnr
from maskgit_sr.ops.resize import downsample_bicubic
from maskgit_sr.perceptual.published import pair

CONSISTENCY_UNIT = 1e-5  # of SR3's table


def _shrunk(x: Image, lr: Image) -> tuple[Image, Image]:
    """Returns x at the size of lr, and lr.

    Raises:
        ValueError: as `_scale`.
    """
    scale = _scale(x, lr)
    x, lr = (image.astype(jnp.float32) for image in on_host(x, lr))
    return downsample_bicubic(x, scale), lr


def _scale(x: Image, lr: Image) -> int:
    """Returns how many times as large as lr x is.

    Raises:
        ValueError: not [B,H,W,3], or the sides of x are not one multiple of those of lr.
    """
    scale = x.shape[1] // lr.shape[1] if x.ndim == lr.ndim == 4 else 0
    multiple = (lr.shape[0], scale * lr.shape[1], scale * lr.shape[2], 3) if scale else ()
    if x.shape != multiple or lr.shape[-1] != 3:
        raise ValueError(
            f"expected images [B,sH,sW,3] and their LR [B,H,W,3], found {x.shape}, {lr.shape}"
        )
    return scale


def lr_psnr(x: Image, lr: Image) -> Score:
    """Returns the RGB PSNR of the shrunk output and the LR input, in dB, at most 100.

    [B,sH,sW,3] and [B,H,W,3] in [0,1] -> [B]; higher is better. SRFlow (Lugmayr et al. 2020,
    section 5.1), whose code also rounds the shrunk output to 8 bits: this one does not, and so can
    exceed 59 dB.

    Raises:
        ValueError: the sides of x are not one multiple of those of lr.
    """
    return psnr(*_shrunk(x, lr), color="rgb")


def lr_psnr_ntire(x: Image, y: Image, lr: Image) -> Score:
    """Returns the RGB PSNR of the shrunk output and the shrunk original, in dB, at most 100.

    [B,sH,sW,3], [B,sH,sW,3] and [B,H,W,3] in [0,1] -> [B]; higher is better. The LR-PSNR of the
    NTIRE 2021 challenge on learning the super-resolution space, as its measure.py computes it: both
    images are 8-bit, cut at the right and bottom to multiples of 8 pixels, and rounded to 8 bits
    after each axis of the shrinking. Of the LR input only the size is used, for the scale.

    Raises:
        ValueError: x and y differ in shape, their sides are not one multiple of those of lr, the
            scale is not 1, 2, 4 or 8, or a side has fewer than 8 pixels.
    """
    x, y = pair(*on_host(x, y))
    height, width = (side // 8 * 8 for side in x.shape[1:3])
    if not (height and width):
        raise ValueError(f"image of {x.shape[1]}x{x.shape[2]}: expected at least 8 pixels a side")
    scale = _scale(x, lr)
    if 8 % scale:
        raise ValueError(f"scale {scale}: lr_psnr_ntire takes 1, 2, 4 or 8")
    # In float64, since the kernel's weights at these scales are sums of powers of 2: halves, which
    # the rounding is sensitive to, then come out exactly.
    images = [z[:, :height, :width] for z in (x, y)]
    if isinstance(x, np.ndarray):
        images = [z.astype(np.float64) for z in images]
    levels = [(255 * z).clip(0, 255).round() for z in images]
    shrunk = [downsample_bicubic(z, scale, levels=255) / 255 for z in levels]
    return psnr(*shrunk, color="rgb")


def lr_consistency(x: Image, lr: Image) -> Score:
    """Returns the mean squared error of the shrunk output and the LR input, in units of 1e-5.

    [B,sH,sW,3] and [B,H,W,3] in [0,1] -> [B]; lower is better. SR3's "consistency" (Saharia et al.
    2023, table 1). The paper does not give the range of its pixels; here it is [0,1], in [-1,1]
    scores would be four times as large.

    Raises:
        ValueError: the sides of x are not one multiple of those of lr.
    """
    small, lr = _shrunk(x, lr)
    return jnp.asarray(((small - lr) ** 2).mean((1, 2, 3))) / CONSISTENCY_UNIT
