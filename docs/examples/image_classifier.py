"""A task for images: a small convolutional network, trained on a folder with one subfolder per class.

    fedgrass task check image_classifier:ImageClassifier --path docs/examples --option folder=/data/images

The images are ``.npy`` files, uint8 of shape (height, width, 3); with Pillow or torchvision installed on the
device, ``read_image`` could read other formats. Images are read when needed, so the folder may be larger than
memory.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from components.trainer.training import TorchTask, TrainingSettings

SIDE = 32


class ImageClassifier(TorchTask):
    """Classifies images.

    Args:
        folder: path of the folder.
        classes: names of the subfolders, separated by commas.
    """

    def __init__(self, folder: str, classes: str = "good,cracked") -> None:
        names = classes.split(",")
        files = sorted(Path(folder).glob("*/*.npy"))  # the same order after every start
        super().__init__(
            lambda: make_model(len(names)),
            training=Images([file for index, file in enumerate(files) if index % 10], names),
            held_out=Images(files[::10], names),
            defaults=TrainingSettings(epochs=2, learning_rate=0.05, batch_size=16),
        )


class Images(Dataset[tuple[Tensor, int]]):
    """Images with their classes, read one at a time."""

    def __init__(self, files: list[Path], classes: list[str]) -> None:
        self._files = files
        self._classes = classes

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        file = self._files[index]
        return read_image(file), self._classes.index(file.parent.name)


def read_image(file: Path) -> Tensor:
    """Return an image, resized: float32 of shape (3, SIDE, SIDE), 0 to 1."""
    pixels = torch.from_numpy(np.load(file)).permute(2, 0, 1).float() / 255
    return nn.functional.interpolate(pixels[None], size=(SIDE, SIDE), mode="bilinear")[0]


def make_model(classes: int) -> nn.Module:
    """Return two convolutional layers and a linear layer, for images of shape (batch, 3, SIDE, SIDE).

    Uses group normalization: the running means of batch normalization average badly if devices have different
    data (Hsieh et al., "The Non-IID Data Quagmire of Decentralized Machine Learning", ICML 2020).
    """
    return nn.Sequential(
        nn.Conv2d(3, 16, kernel_size=3, stride=2),
        nn.GroupNorm(4, 16),
        nn.ReLU(),
        nn.Conv2d(16, 32, kernel_size=3, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 2 * 2, classes),
    )
