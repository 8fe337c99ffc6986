"""TorchTask answers queries of statistics with the tensors of its training data."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from components.trainer.tasks.task import StatisticsTask
from components.trainer.training import TorchTask

INPUTS, CLASSES = torch.arange(1200.0).reshape(300, 4), torch.arange(300) % 3


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    def __len__(self) -> int:
        return 300

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(zip(INPUTS, CLASSES, strict=True))


def joined(training: Any, **options: Any) -> dict[str, np.ndarray]:
    task = TorchTask(nn.Linear(4, 3), training, training, **options)
    assert isinstance(task, StatisticsTask)
    found = list(task.features())
    return {name: np.concatenate([batch[name] for batch in found]) for name in found[0]}


@pytest.mark.parametrize(
    "training",
    [
        TensorDataset(INPUTS, CLASSES),
        (INPUTS.numpy(), CLASSES.numpy()),
        DataLoader(TensorDataset(INPUTS, CLASSES), batch_size=7, shuffle=True),
        Stream(),
        lambda: TensorDataset(INPUTS, CLASSES),
    ],
    ids=["tensors", "arrays", "loader", "stream", "function"],
)
def test_inputs_are_x_and_classes_are_labels_whatever_holds_them(training: Any) -> None:
    found = joined(training)
    assert set(found) == {"x", "labels"}
    np.testing.assert_array_equal(found["x"], INPUTS)
    np.testing.assert_array_equal(found["labels"], CLASSES)


def test_the_data_come_in_batches() -> None:
    task = TorchTask(nn.Linear(4, 3), TensorDataset(INPUTS, CLASSES), TensorDataset(INPUTS, CLASSES))
    assert [len(batch["x"]) for batch in task.features()] == [256, 44]


def test_numbers_as_targets_are_the_feature_target() -> None:
    found = joined(TensorDataset(INPUTS, INPUTS[:, 0]), loss=nn.functional.mse_loss)
    np.testing.assert_array_equal(found["target"], INPUTS[:, 0])


def test_inputs_of_a_dict_keep_their_names() -> None:
    examples = [{"age": torch.tensor(float(n)), "labels": torch.tensor(n % 2)} for n in range(20)]
    found = joined(examples)
    assert set(found) == {"age", "labels"}
    np.testing.assert_array_equal(found["age"], np.arange(20.0))
