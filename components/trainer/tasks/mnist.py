"""MNIST: 70,000 handwritten digits of 28 x 28 pixels (LeCun, Cortes, Burges), from its four IDX files.

There are three models, each with the training settings that it was published with: ``cnn``, a small
convolutional network (the usual benchmark of serverless federated learning), ``mlp``, linear layers only, and
``linear``, logistic regression (Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020).
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from components.runtime.component_errors import ConfigurationError
from components.trainer.tasks.data_sets import PartitionedTask, Pixels, Publication, parse_local_held_out
from components.trainer.tasks.partition import Option, parse_partition
from components.trainer.training import TrainingSettings

ADDRESS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/ (train-images-idx3-ubyte.gz and the other three files)"
)
_LOCAL_HELD_OUT = 0.2  # of a share: of 3,000 images (20 shares), 2,400 are trained on
_IMAGES, _LABELS = "{}-images-idx3-ubyte", "{}-labels-idx1-ubyte"
_BYTES = 8  # the IDX type of unsigned bytes
_DEFAULTS = {
    "cnn": TrainingSettings(epochs=10, learning_rate=0.01, momentum=0.5, batch_size=50),
    "mlp": TrainingSettings(epochs=8, learning_rate=1e-4, momentum=0.9, batch_size=64),
    "linear": TrainingSettings(epochs=1, learning_rate=0.03, momentum=0.0, batch_size=10),
}


class Mnist(PartitionedTask):
    """MNIST on one device.

    Args:
        folder: where the four files are, plain or compressed by gzip.
        model: ``cnn``, ``mlp`` or ``linear``.
        local_held_out: fraction of the share that the device evaluates on; 0: it trains on all of it.
        partition_options: fields of :class:`~components.trainer.tasks.partition.Partition`.
    """

    def __init__(
        self,
        folder: str = "",
        model: str = "cnn",
        local_held_out: float | str = _LOCAL_HELD_OUT,
        **partition_options: Option,
    ) -> None:
        partition = parse_partition("mnist", partition_options, own=("folder", "model", "local_held_out"))
        if model not in _MODELS:
            message = f"task 'mnist' has no model {model!r}: use {', '.join(_MODELS)}"
            raise ConfigurationError(message)
        publication = Publication("mnist", "MNIST", ADDRESS, folder)
        images, labels = publication.once("train", lambda: read_examples(publication, "train"))
        super().__init__(
            _MODELS[model],
            (images, labels),
            partition.places(publication.once("labels", labels.tolist)),
            local_held_out=parse_local_held_out("mnist", local_held_out),
            read_test=lambda: publication.once("test", lambda: read_examples(publication, "t10k")),
            defaults=_DEFAULTS[model],
        )


def make_cnn() -> nn.Module:
    """Return two convolutions with pooling and two linear layers: 21,840 parameters, log-probabilities."""
    return nn.Sequential(
        Pixels(0.1307, 0.3081),
        nn.Conv2d(1, 10, kernel_size=5),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(10, 20, kernel_size=5),
        nn.Dropout2d(),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(320, 50),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(50, 10),
        # Cross entropy accepts log-probabilities as logits: their softmax is the same.
        nn.LogSoftmax(dim=1),
    )


def make_mlp() -> nn.Module:
    """Return three linear layers, 784 to 128 to 64 to 10: 109,386 parameters."""
    return nn.Sequential(
        Pixels(0.5, 0.5),
        nn.Flatten(),
        nn.Linear(784, 128),
        nn.ReLU(),
        nn.Linear(128, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def make_linear() -> nn.Module:
    """Return one linear layer, 784 to 10: 7,850 parameters."""
    return nn.Sequential(Pixels(0.0, 1.0), nn.Flatten(), nn.Linear(784, 10))


_MODELS = {"cnn": make_cnn, "mlp": make_mlp, "linear": make_linear}


def read_examples(publication: Publication, part: str) -> tuple[Tensor, Tensor]:
    """Return images, uint8 of shape (n, 1, 28, 28), and labels, int64 of shape (n,), from 0 to 9.

    Args:
        publication: where the files are.
        part: ``train`` or ``t10k``.

    Raises:
        ConfigurationError: a file is missing or damaged.
    """
    paths = [publication.find(name.format(part)) for name in (_IMAGES, _LABELS)]
    images, labels = (read_idx(publication, path) for path in paths)
    if images.shape[1:] != (28, 28) or labels.ndim != 1 or len(images) != len(labels) or labels.max() > 9:  # noqa: PLR2004 - digits
        how = f"with {paths[1].name}: shapes {images.shape} and {labels.shape}"
        raise publication.damaged(paths[0], how)
    return images.unsqueeze(1), labels.long()


def read_idx(publication: Publication, path: Path) -> Tensor:
    """Return the content of an IDX file of bytes: uint8, with 1 to 3 dimensions.

    The header is two zero bytes, the type 8, the number of dimensions, and each dimension as a big-endian
    unsigned 32-bit integer.

    Raises:
        ConfigurationError: the file is not an IDX file of bytes, or its length differs from the header's.
    """
    data = publication.read(path)
    if len(data) < 4 or data[:3] != bytes((0, 0, _BYTES)) or not 1 <= data[3] <= 3:  # noqa: PLR2004 - the header
        raise publication.damaged(path, "which is not an IDX file of bytes in 1 to 3 dimensions")
    start = 4 + 4 * data[3]
    shape = [int.from_bytes(data[place : place + 4], "big") for place in range(4, start, 4)]
    expected = start + int(np.prod(shape, dtype=object))
    if len(data) != expected or expected == start:
        raise publication.damaged(path, f"which has {len(data)} bytes instead of {expected} by its header")
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=start).reshape(shape).copy())
