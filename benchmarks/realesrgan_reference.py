"""The public Real-ESRGAN degradation, from checkouts, on the CPU.

Needs checkouts of https://github.com/XPixelGroup/BasicSR and
https://github.com/xinntao/Real-ESRGAN, and PyTorch. Their packages import training frameworks that
the degradation does not use; those are replaced by empty modules here, as is torchvision's
conversion to grey. The modules that compute are the checkouts' own.
"""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np


class Reference:
    """Real-ESRGAN's dataset and `feed_data`, one image after the other.

    Attributes:
      degradations: BasicSR's module of kernels and noises.
      processing: BasicSR's module of `filter2D` and USM sharpening.

    Args:
      basicsr, realesrgan: the two checkouts.
      crop: side of the HR crops; the public code fixes 400.
      scale: HR side over LR side.

    Raises:
      FileNotFoundError: a folder is not such a checkout.
    """

    def __init__(self, basicsr: Path, realesrgan: Path, crop: int = 400, scale: int = 4):
        import torch

        for path in (
            basicsr / "basicsr" / "data" / "degradations.py",
            realesrgan / "options" / "train_realesrgan_x4plus.yml",
        ):
            if not path.is_file():
                raise FileNotFoundError(f"not a checkout of the public code: {path} is missing")
        _prepare_imports(basicsr, realesrgan)
        self.torch = torch
        self.degradations = importlib.import_module("basicsr.data.degradations")
        self.processing = importlib.import_module("basicsr.utils.img_process_util")
        diffjpeg = importlib.import_module("basicsr.utils.diffjpeg")
        utils: Any = sys.modules["basicsr.utils"]
        utils.DiffJPEG, utils.USMSharp = diffjpeg.DiffJPEG, self.processing.USMSharp
        dataset = importlib.import_module("realesrgan.data.realesrgan_dataset").RealESRGANDataset
        model = importlib.import_module("realesrgan.models.realesrgan_model").RealESRGANModel

        options = _options(realesrgan / "options" / "train_realesrgan_x4plus.yml")
        options.update(scale=scale, gt_size=crop)  # the whole crop: LR is what is compared
        self._dataset = dataset.__new__(dataset)
        kernels = options["datasets"]["train"]
        kernels.update(use_hflip=False, use_rot=False)
        for name, value in kernels.items():
            setattr(self._dataset, name, value)
        self._dataset.opt, self._dataset.file_client = kernels, _Memory()
        self._dataset.paths = [""]
        self._dataset.kernel_range = list(range(7, 22, 2))
        self._dataset.pulse_tensor = torch.zeros(21, 21)
        self._dataset.pulse_tensor[10, 10] = 1

        self._model = model.__new__(model)
        self._model.opt, self._model.is_train, self._model.device = options, True, "cpu"
        self._model.jpeger = diffjpeg.DiffJPEG(differentiable=False)
        self._model.usm_sharpener = self.processing.USMSharp()
        self._model._dequeue_and_enqueue = lambda: None  # mixes examples, computes nothing

    def degrade(self, image: np.ndarray) -> np.ndarray:
        """LR uint8 [crop/scale, crop/scale, 3] of HR uint8 [crop, crop, 3], RGB.

        Draws from the global generators of `random`, NumPy and torch, as the public code does. One
        image a call: within a batch the public code shares resize factors, and on the CPU it stops
        at the layout that torch gives resized batches.
        """
        self._dataset.file_client.image = image[..., ::-1]
        example = self._dataset[0]
        names = ("gt", "kernel1", "kernel2", "sinc_kernel")
        self._model.feed_data({name: example[name][None] for name in names})
        return np.round(self._model.lq[0].numpy().transpose(1, 2, 0) * 255).astype(np.uint8)

    def use_separable_sharpening(self) -> None:
        """Sharpens by the public code's OpenCV function instead of its 51×51 convolution: equal
        results within rounding (`benchmarks.degradation_fidelity` checks), half the time."""

        def sharpen(image: Any) -> Any:
            rows = image[0].numpy().transpose(1, 2, 0)
            return self.torch.from_numpy(self.processing.usm_sharp(rows).transpose(2, 0, 1))[None]

        self._model.usm_sharpener = sharpen

    def seed(self, seed: int) -> None:
        """Seeds the three global generators."""
        import random

        random.seed(seed)
        np.random.seed(seed)
        self.torch.manual_seed(seed)


class _Memory:
    """Stands for the public file reader; the image takes the place of its encoded bytes."""

    image: np.ndarray

    def get(self, path: str, client: str) -> np.ndarray:
        return self.image


def _options(path: Path) -> dict[str, Any]:
    import yaml

    return yaml.safe_load(path.read_text().replace("!!float", ""))


def _prepare_imports(basicsr: Path, realesrgan: Path) -> None:
    import torch

    def module(name: str, path: Path | None = None, **contents: Any) -> None:
        made: Any = types.ModuleType(name)
        made.__path__ = [] if path is None else [str(path)]
        vars(made).update(contents)
        sys.modules[name] = made

    class Registry:
        def register(self) -> Any:
            return lambda item: item

    def grey(image: Any, num_output_channels: int = 1) -> Any:
        weights = torch.tensor([0.2989, 0.587, 0.114], dtype=image.dtype).view(1, 3, 1, 1)
        return (image * weights).sum(1, keepdim=True)

    def tensors(images: list[np.ndarray], bgr2rgb: bool, float32: bool) -> list[Any]:
        return [torch.from_numpy(i[..., ::-1].transpose(2, 0, 1).copy()) for i in images]

    module("torchvision")
    module("torchvision.transforms")
    module("torchvision.transforms.functional", rgb_to_grayscale=grey)
    module("basicsr", basicsr / "basicsr")
    module("basicsr.data", basicsr / "basicsr" / "data")
    module(
        "basicsr.utils",
        basicsr / "basicsr" / "utils",
        FileClient=None,
        get_root_logger=None,
        imfrombytes=lambda image, float32: image.astype(np.float32) / np.float32(255),
        img2tensor=tensors,
    )
    module("basicsr.models")
    module("basicsr.models.srgan_model", SRGANModel=object)
    module("basicsr.utils.registry", DATASET_REGISTRY=Registry(), MODEL_REGISTRY=Registry())
    module("realesrgan", realesrgan / "realesrgan")
    module("realesrgan.data", realesrgan / "realesrgan" / "data")
    module("realesrgan.models", realesrgan / "realesrgan" / "models")
