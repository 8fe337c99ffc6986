"""A task for time series: predicts the next value of a sensor from the last 24.

    fedgrass task check forecast:Forecast --path docs/examples --option file=/var/log/sensor.csv

The CSV file has one number per line and grows over time, so it is read before each assignment. The latest
tenth is held out: a model must not be evaluated on values older than those it was trained on.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from components.trainer.training import TorchTask, TrainingSettings

STEPS = 24


class Forecast(TorchTask):
    """Predicts the next value.

    Args:
        file: path of the CSV file.
        mean: of the sensor's values; the same on every device.
        deviation: standard deviation of the values; the same on every device.
    """

    def __init__(self, file: str, mean: float = 0.0, deviation: float = 1.0) -> None:
        super().__init__(
            Recurrent,
            training=lambda: read_windows(Path(file), mean, deviation, latest=False),
            held_out=lambda: read_windows(Path(file), mean, deviation, latest=True),
            loss=nn.functional.smooth_l1_loss,
            defaults=TrainingSettings(epochs=3, learning_rate=0.05, max_grad_norm=1.0),
        )

    def make_scheduler(self, optimizer: Any, settings: TrainingSettings, steps: int) -> Any:  # noqa: ARG002 - a hook's signature
        """Return cosine annealing of the learning rate within each round."""
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)


def read_windows(file: Path, mean: float, deviation: float, *, latest: bool) -> TensorDataset:
    """Return windows, float32 of shape (n, STEPS, 1), and the value after each, float32 of shape (n,)."""
    values = torch.from_numpy(np.loadtxt(file, ndmin=1)).float().sub(mean).div(deviation)
    cut = len(values) * 9 // 10
    part = values[cut:] if latest else values[:cut]
    if len(part) <= STEPS:  # a new sensor has not enough values yet
        return TensorDataset(torch.zeros(0, STEPS, 1), torch.zeros(0))
    windows = part.unfold(0, STEPS + 1, 1)
    return TensorDataset(windows[:, :-1, None], windows[:, -1])


class Recurrent(nn.Module):
    """A GRU followed by a linear layer on its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRU(1, 16, batch_first=True)
        self.layer = nn.Linear(16, 1)

    def forward(self, windows: Tensor) -> Tensor:
        """Return the next value of each window, shape (batch,), for windows of shape (batch, STEPS, 1)."""
        states, _ = self.cell(windows)
        values: Tensor = self.layer(states[:, -1]).squeeze(1)
        return values
