"""The task `example-task`: a model and its data. `TorchTask` does the rest: training, evaluation, metrics.

Replace `read_examples` by your own data and `make_model` by your own model; then

    fedgrass task check example_task:ExampleTask
    python -m pytest test_example_task.py
    fedgrass demo --task example-task=example_task:ExampleTask --task-path .
"""

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from components.trainer.tasks.partition import Partition
from components.trainer.training import TorchTask, TrainingSettings

TEST = 10  # every tenth example is held out to test the global model: no device trains on it
HELD_OUT = 10  # every tenth example of a device is held out for its own evaluation


class ExampleTask(TorchTask):
    """Predicts whether a point is inside a circle.

    The arguments are the task's options in the device's configuration: numbers, strings or booleans. Give
    each one a default, so that the demo can create the task. In the demo, `share` and `shares` assign each
    device its part of the examples; a real device has its own data and does not need them.
    """

    def __init__(self, points: int = 2000, seed: int = 0, share: int = 0, shares: int = 1) -> None:
        inputs, targets = read_examples(points, seed)
        test = torch.arange(len(targets)) % TEST == 0
        data = TensorDataset(inputs[~test], targets[~test])
        own = Partition(share=share, shares=shares).places(data.tensors[1].tolist())
        super().__init__(
            make_model,
            training=TensorDataset(*data[[index for turn, index in enumerate(own) if turn % HELD_OUT]]),
            held_out=TensorDataset(*data[own[::HELD_OUT]]),
            test=TensorDataset(inputs[test], targets[test]),
            defaults=TrainingSettings(epochs=2, learning_rate=0.05, batch_size=32),
        )


def read_examples(points: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return inputs, float32 of shape (n, 2), and classes, int64 of shape (n,). Read your own data here."""
    inputs = torch.rand(points, 2, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    inside = inputs.square().sum(dim=1) < 0.6  # noqa: PLR2004 - the square of the radius
    return inputs, inside.long()


def make_model() -> nn.Module:
    """Return the model with fresh weights: your own `nn.Module`, equal on every device."""
    return nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 2))
