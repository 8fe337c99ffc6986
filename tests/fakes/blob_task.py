"""A small task for simulations: two clouds of points, split among the devices; every kind of model."""

import os
import signal
from typing import Any

import torch
from torch import Tensor, nn

from components.trainer.training import TorchTask, TrainingSettings

_EACH = 20


class Branching(nn.Module):
    """A model whose layers depend on its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, points: Tensor) -> Tensor:
        outputs: Tensor = self.linear(points)
        return outputs * 2 if float(points.sum()) > 0 else outputs


class Counting(nn.Module):
    """A model that counts its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)
        self.batches: Tensor
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def forward(self, points: Tensor) -> Tensor:
        self.batches += 1
        outputs: Tensor = self.linear(points)
        return outputs


MODELS: dict[str, Any] = {
    "plain": lambda: nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)),
    "image": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 2, 2)),
        nn.Conv2d(1, 3, 2, padding=1),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(3, 2),
    ),
    "dropout": lambda: nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2)),
    "batch_norm": lambda: nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)),
    "branching": Branching,
    "counting": Counting,
}


class Blobs(TorchTask):
    """Points of two classes; a device has 20 of them to train on, or up to 2 more.

    Args:
        share: of this device.
        shares: of all devices.
        model: a name in MODELS.
        uneven: whether devices have different numbers of examples.
        killed: share whose device ends its process; -1: none does.
        failing: share whose training raises an exception; -1: none does.
    """

    def __init__(  # noqa: PLR0913 - its options
        self,
        share: int = 0,
        shares: int = 1,
        *,
        model: str = "plain",
        uneven: bool = False,
        killed: int = -1,
        failing: int = -1,
    ) -> None:
        assert share < shares
        generator = torch.Generator().manual_seed(share)
        count = _EACH + (share % 3 if uneven else 0)
        labels = torch.arange(count + 5) % 2
        points = torch.randn(count + 5, 4, generator=generator) + labels.unsqueeze(1) * 2
        self._killed, self._failing, self._share = killed, failing, share
        super().__init__(
            MODELS[model],
            (points[:count], labels[:count]),
            (points[count:], labels[count:]),
            defaults=TrainingSettings(epochs=2, batch_size=8, learning_rate=0.1),
        )

    def split_batch(self, batch: Any) -> tuple[Any, Any]:
        if self._share == self._killed:
            os.kill(os.getpid(), signal.SIGKILL)
        if self._share == self._failing:
            message = "the sensor is broken"
            raise OSError(message)
        return super().split_batch(batch)


class Adaptive(Blobs):
    """Blobs with an optimizer of its own."""

    def make_optimizer(self, parameters: Any, settings: TrainingSettings) -> Any:
        return torch.optim.Adam(parameters, lr=settings.learning_rate)
