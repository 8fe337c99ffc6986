"""A task for time series: the next value of a sensor, from the last 24.

    fedgrass task check forecast:Forecast --path docs/examples --option file=/var/log/sensor.csv

The CSV file has a number per line and grows: it is read before each work. The newest tenth is held out, since
a model that is evaluated on the past would have seen the future.
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
    """Predicts the next value; ``mean`` and ``deviation`` of the sensor are the same on each device."""

    def __init__(self, file: str, mean: float = 0.0, deviation: float = 1.0) -> None:
        def windows(newest: bool) -> TensorDataset:  # noqa: FBT001
            return read_windows(Path(file), mean, deviation, newest=newest)

        super().__init__(
            Recurrent,
            training=lambda: windows(False),  # noqa: FBT003
            held_out=lambda: windows(True),  # noqa: FBT003
            loss=nn.functional.smooth_l1_loss,
            defaults=TrainingSettings(epochs=3, learning_rate=0.05, max_grad_norm=1.0),
        )

    def make_scheduler(self, optimizer: Any, settings: TrainingSettings, steps: int) -> Any:  # noqa: ARG002
        """Return a learning rate that falls along a cosine within each round."""
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)


def read_windows(file: Path, mean: float, deviation: float, *, newest: bool) -> TensorDataset:
    """Return windows, float32 of shape (n, STEPS, 1), and the value after each, of shape (n,)."""
    values = torch.from_numpy(np.loadtxt(file, ndmin=1)).float().sub(mean).div(deviation)
    cut = len(values) * 9 // 10
    part = values[cut:] if newest else values[:cut]
    if len(part) <= STEPS:  # a sensor that is new has nothing to learn from yet
        return TensorDataset(torch.zeros(0, STEPS, 1), torch.zeros(0))
    windows = part.unfold(0, STEPS + 1, 1)
    return TensorDataset(windows[:, :-1, None], windows[:, -1])


class Recurrent(nn.Module):
    """A GRU whose last state gives the next value."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRU(1, 16, batch_first=True)
        self.layer = nn.Linear(16, 1)

    def forward(self, windows: Tensor) -> Tensor:
        """Return one value per window, of shape (batch,)."""
        states, _ = self.cell(windows)
        values: Tensor = self.layer(states[:, -1]).squeeze(1)
        return values
