"""The task `example-task`: a model and its data. `TorchTask` does the rest: training, evaluation, metrics.

Put your own data into `read_examples` and your own model into `make_model`; then

    fedgrass task check example_task:ExampleTask
    python -m pytest test_example_task.py
    fedgrass demo --task example-task=example_task:ExampleTask --task-path .
"""

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from components.trainer.training import TorchTask, TrainingSettings

HELD_OUT = 10  # every tenth example is kept for the evaluation and never trained on


class ExampleTask(TorchTask):
    """Tells whether a point lies inside a circle.

    The arguments are the task's options in the device's configuration: numbers, texts or truths. Give each
    one a default, so that the demo can make the task.
    """

    def __init__(self, points: int = 1000, seed: int = 0) -> None:
        inputs, targets = read_examples(points, seed)
        held_out = torch.arange(len(targets)) % HELD_OUT == 0
        super().__init__(
            make_model,
            training=TensorDataset(inputs[~held_out], targets[~held_out]),
            held_out=TensorDataset(inputs[held_out], targets[held_out]),
            defaults=TrainingSettings(epochs=2, learning_rate=0.05, batch_size=32),
        )


def read_examples(points: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return inputs, float32 of shape (n, 2), and classes, int64 of shape (n,). Read your own data here."""
    inputs = torch.rand(points, 2, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    inside = inputs.square().sum(dim=1) < 0.6  # noqa: PLR2004
    return inputs, inside.long()


def make_model() -> nn.Module:
    """Return the model with fresh weights: your own `nn.Module`, the same on every device."""
    return nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 2))
