"""A task whose batch normalizations stay on the device (FedBN), for sensors that read differently.

    fedgrass task check fedbn_sensors:PumpState --path docs/examples
    fedgrass demo --task pumps=fedbn_sensors:PumpState --task-path docs/examples --rounds 20

Every pump has the same four sensors, but no two sensors agree: each has a gain, an offset and noise of its
own. Averaged statistics of such inputs fit no device. With ``shared="no_batch_norm"``, the weights of all
other layers travel, and each device keeps its normalizations: Li et al., "FedBN: Federated Learning on
Non-IID Features via Local Batch Normalization", ICLR 2021 (https://arxiv.org/abs/2102.07623).

The readings are generated: replace ``read_pump`` by reading your own sensors.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from components.trainer.training import TorchTask, TrainingSettings

READINGS = 32  # per window
SENSORS = ("pressure", "flow", "current", "vibration")
STATES = ("off", "normal", "blocked", "leaking", "cavitating")
_LEVELS = np.array(  # of each sensor in each state
    [[0, 0, 0, 0], [1, 1, 1, 0.3], [1.4, 0.3, 0.8, 0.3], [0.7, 1.2, 1, 0.3], [0.9, 0.85, 1, 0.5]]
)
_RIPPLES = np.array(  # standard deviations within a window
    [
        [0.02, 0.02, 0.02, 0.02],
        [0.10, 0.10, 0.05, 0.20],
        [0.10, 0.05, 0.05, 0.20],
        [0.10, 0.12, 0.05, 0.20],
        [0.20, 0.15, 0.08, 0.50],
    ]
)
_GAIN, _OFFSET, _NOISE = 0.15, 0.3, (0.05, 0.2)  # of sensors: deviations of both, and the range of the third


class PumpState(TorchTask):
    """Recognizes the state of a pump from its sensors.

    Args:
        share: number of this device, from 0; its sensors are unlike all others.
        windows: number of windows to train on.
        held_out: number of windows to evaluate on.
        seed: of the windows.
        average_all: share the normalizations too, to compare.
    """

    def __init__(
        self,
        share: int = 0,
        windows: int = 40,
        held_out: int = 200,
        seed: int = 0,
        average_all: bool = False,  # noqa: FBT001, FBT002 - an option of the configuration
    ) -> None:
        super().__init__(
            make_model,
            training=TensorDataset(*read_pump(share, windows, seed)),
            held_out=TensorDataset(*read_pump(share, held_out, seed + 1_000_000)),
            defaults=TrainingSettings(epochs=1, learning_rate=0.02, batch_size=15),
            shared=() if average_all else "no_batch_norm",
        )


def make_model() -> nn.Module:
    """Return a network of two convolutions, each with a batch normalization, and a linear layer."""
    return nn.Sequential(
        nn.Conv1d(len(SENSORS), 16, 5),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Conv1d(16, 32, 5),
        nn.BatchNorm1d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(32, len(STATES)),
    )


def read_pump(device: int, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return windows, float32 of shape (count, sensors, READINGS), and their states, int64 of shape (count,).

    Args:
        device: whose sensors they are; a sensor's gain, offset and noise never change.
        count: number of windows.
        seed: of what the pump does.
    """
    shape = (1, len(SENSORS), 1)
    sensors = np.random.default_rng([1, device])
    gain, offset = np.exp(sensors.normal(0, _GAIN, shape)), sensors.normal(0, _OFFSET, shape)
    noise = sensors.uniform(*_NOISE, shape)
    random = np.random.default_rng([seed, device])
    states = random.integers(0, len(STATES), count)
    true = _LEVELS[states][:, :, None] * random.uniform(0.7, 1.3, (count, 1, 1))
    true = true + _RIPPLES[states][:, :, None] * random.normal(size=(count, len(SENSORS), READINGS))
    measured = gain * (true + noise * random.normal(size=true.shape)) + offset
    return torch.from_numpy(measured.astype(np.float32)), torch.from_numpy(states)
