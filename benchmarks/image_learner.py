"""A small training on images for simulated fleets: a network of one hidden layer, in numpy.

The images are those of MNIST if a folder has its four files, otherwise the 1,797 digits of scikit-learn. Each
device has images of a few classes only, drawn from a Dirichlet distribution as in Hsu et al., "Measuring the
Effects of Non-Identical Data Distribution for Federated Visual Classification" (2019).
"""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

Floats = NDArray[np.float32]
Model = dict[str, NDArray[Any]]

MNIST = Path("../shared/data/mnist")
_HIDDEN, _CLASSES, _BATCH = 32, 10, 20
_HELD_OUT = 0.2  # of scikit-learn's digits, which have no test set
_MOST_TESTED = 4000  # images of MNIST's test set
_CONCENTRATION = 1.0  # of the Dirichlet distribution of a device's classes


class ImageLearner:
    """The images of a fleet and their training.

    Args:
        devices: the number of devices.
        examples: images of each device; a share of all images if there are fewer.
        seed: draws the images of the devices and the initial model.
        folder: with the files of MNIST; None for scikit-learn's digits.
    """

    def __init__(self, devices: int, examples: int, seed: int, folder: Path | None) -> None:
        self.name = "MNIST" if folder else "digits of scikit-learn"
        train, self._test = _mnist(folder) if folder else _digits()
        self._rng = np.random.default_rng(seed)
        self._inputs, labels = train
        each = min(examples, len(labels) // devices)
        self._places = _dealt(labels, devices, each, self._rng)
        self._labels = labels

    def initial(self) -> Model:
        """Return the model before training."""
        width = self._inputs.shape[1]
        return {
            "hidden.weight": self._rng.normal(0, np.sqrt(2 / width), (width, _HIDDEN)).astype(np.float32),
            "hidden.bias": np.zeros(_HIDDEN, np.float32),
            "output.weight": self._rng.normal(0, np.sqrt(1 / _HIDDEN), (_HIDDEN, _CLASSES)).astype(
                np.float32
            ),
            "output.bias": np.zeros(_CLASSES, np.float32),
        }

    def train(self, device: int, start: Model, rate: float) -> tuple[Model, int]:
        """Return the model after one epoch of stochastic gradient descent, and the number of examples.

        Args:
            device: whose images are used, from 0.
            start: the model to start from; unchanged.
            rate: the learning rate.
        """
        model = {name: array.copy() for name, array in start.items()}
        places = self._rng.permutation(self._places[device])
        for first in range(0, len(places), _BATCH):
            batch = places[first : first + _BATCH]
            inputs, labels = self._inputs[batch], self._labels[batch]
            hidden, chances = _forward(model, inputs)
            errors = chances
            errors[np.arange(len(batch)), labels] -= 1
            errors /= len(batch)
            back = (errors @ model["output.weight"].T) * (hidden > 0)
            model["output.weight"] -= rate * hidden.T @ errors
            model["output.bias"] -= rate * errors.sum(axis=0)
            model["hidden.weight"] -= rate * inputs.T @ back
            model["hidden.bias"] -= rate * back.sum(axis=0)
        return model, len(places)

    def accuracy(self, model: Model) -> float:
        """Return the share of the test images that a model recognizes."""
        inputs, labels = self._test
        return float((_forward(model, inputs)[1].argmax(axis=1) == labels).mean())


def _forward(model: Model, inputs: Floats) -> tuple[Floats, Floats]:
    """Return the hidden values, shape (N, 32), and the chances of the classes, shape (N, 10)."""
    hidden = np.maximum(inputs @ model["hidden.weight"] + model["hidden.bias"], 0)
    scores = hidden @ model["output.weight"] + model["output.bias"]
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return hidden, powers / powers.sum(axis=1, keepdims=True)


def _dealt(
    labels: NDArray[np.int64], devices: int, each: int, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Return the places of the images of each device: ``each`` images, with classes of its own shares."""
    left = [list(rng.permutation(np.flatnonzero(labels == digit))) for digit in range(_CLASSES)]
    found = []
    for _ in range(devices):
        shares = rng.dirichlet(np.full(_CLASSES, _CONCENTRATION))
        mine: list[int] = []
        for _ in range(each):
            there = np.array([bool(places) for places in left])
            chances = np.where(there, shares + 1e-6, 0)
            mine.append(left[rng.choice(_CLASSES, p=chances / chances.sum())].pop())
        found.append(np.array(mine))
    return found


Examples = tuple[Floats, NDArray[np.int64]]


def _digits() -> tuple[Examples, Examples]:
    data = load_digits()
    inputs, labels = (data.data / 16).astype(np.float32), data.target.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(labels))
    cut = round(len(labels) * _HELD_OUT)
    held, rest = order[:cut], order[cut:]
    return (inputs[rest], labels[rest]), (inputs[held], labels[held])


def _mnist(folder: Path) -> tuple[Examples, Examples]:
    images, answers = _idx(folder, "t10k")
    return _idx(folder, "train"), (images[:_MOST_TESTED], answers[:_MOST_TESTED])


def _idx(folder: Path, part: str) -> Examples:
    """Return the images, each flattened to values of 0 to 1, and the labels of one part of MNIST."""
    images = gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes())
    answers = np.frombuffer(labels, np.uint8, offset=8).astype(np.int64)
    pixels = np.frombuffer(images, np.uint8, offset=16).reshape(len(answers), -1)
    return pixels.astype(np.float32) / np.float32(255), answers
