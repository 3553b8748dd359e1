"""Scores by other people's networks, other than LPIPS: DISTS, CLIP-IQA and MUSIQ.

Each takes RGB in [0,1] as it is: no resizing before the network's own, no border cut, no rounding.
Their weights are not on hand here. Each network was compared with the public PyTorch code on random
weights of reduced width (`tests/metrics/test_networks.py`); no score of published weights was seen.
"""

from collections.abc import Callable
from pathlib import Path

import jax

from maskgit_sr.arrays import Image, Params
from maskgit_sr.metrics.networks import clip, musiq
from maskgit_sr.metrics.pixel import Score
from maskgit_sr.metrics.programs import by_size
from maskgit_sr.perceptual import vgg16
from maskgit_sr.perceptual.published import load

Prompts = tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]

# Prompts are token ids of OpenAI's byte-pair vocabulary, since the texts never change; the first of
# a pair is the good one.
PAPER_PROMPTS = (((886, 1125, 269), (2103, 1125, 269)),)  # "Good photo." and "Bad photo."
PYIQA_PROMPTS = (
    ((886, 2867), (2103, 2867)),  # "Good image", "bad image"
    ((8157, 2867), (21977, 2867)),  # "Sharp image", "blurry image"
    ((8157, 20938), (21977, 20938)),  # "sharp edges", "blurry edges"
    ((1400, 9977, 2867), (1042, 9977, 2867)),  # "High resolution image", "low resolution image"
    ((9307, 268, 1139, 2867), (33495, 2867)),  # "Noise-free image", "noisy image"
)


def load_dists(vgg: Path, weights: Path) -> Callable[[Image, Image], Score]:
    """Returns DISTS (x, y) -> [B] of images [B,H,W,3]: Ding et al. 2020 (arXiv:2004.07728).

    About 0 (same) to 1, lower is better. The images are not shrunk to 256 pixels first, as the
    authors' command does: IQA-PyTorch and the papers on super-resolution do not either.

    Args:
        vgg: torchvision's VGG16 as safetensors.
        weights: its alpha and beta.

    Raises:
        UserError: a file is something else.
    """
    params = load((vgg, weights), vgg16.read_dists, vgg16.dists_distance)
    apply = by_size(vgg16.dists_distance)
    return lambda x, y: apply(params, x, y)


def load_clipiqa(file: Path, *, prompts: Prompts = PAPER_PROMPTS) -> Callable[[Image], Score]:
    """Returns CLIP-IQA [B,H,W,3] -> [B] in [0,1]: Wang et al. 2023 (arXiv:2207.12396).

    Higher is better. CLIP's ResNet-50 without positional embedding; how much nearer an image is to
    the first text of each pair than to the second. Texts are embedded once, when the file is read.

    Args:
        file: OpenAI's RN50 as safetensors, both towers.
        prompts: pairs of token ids: the paper's pair, or the five of IQA-PyTorch.

    Raises:
        UserError: the file is something else.
    """

    def with_text(params: Params) -> Params:
        ids = [text for texts in prompts for text in texts]
        text = clip.text_features(params, ids).reshape(len(prompts), 2, -1)
        # Without the text tower, which is not needed in memory any more.
        network = {name: params[name] for name in ("visual", "logit_scale")}
        return {"network": network, "text": text}

    def trace(params: Params, x: Image) -> Score:
        return clip.preference(with_text(params), x)

    params = jax.jit(with_text)(load(file, clip.read, trace, images=1))
    apply = by_size(clip.preference)
    return lambda x: apply(params, x)


def load_musiq(file: Path) -> Callable[[Image], Score]:
    """Returns MUSIQ [B,H,W,3] -> [B], about 0 to 100: Ke et al. 2021 (arXiv:2108.05997).

    Higher is better. The authors' JAX network with the resizing of their TensorFlow code.
    IQA-PyTorch resizes otherwise and is up to 3 % off the official values for it.

    Args:
        file: an official checkpoint with one output, such as `koniq_ckpt.npz`.

    Raises:
        UserError: the file is something else.
    """
    params = load(file, musiq.read, musiq.quality, images=1)
    apply = by_size(musiq.quality)
    return lambda x: apply(params, x)
