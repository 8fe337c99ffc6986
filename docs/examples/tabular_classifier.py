"""A task for tables: a rare failure, found in a machine's figures; measured by F1 and AUC.

    fedgrass task check tabular_classifier:TabularClassifier --path docs/examples --option file=machine.csv

The CSV file has a row per example, numbers only: the features, then 1 for a failure and 0 for none.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from components.trainer.training import TorchTask, TrainingSettings


class TabularClassifier(TorchTask):
    """Tells whether a machine will fail, of ``features`` columns."""

    def __init__(self, file: str, features: int = 6) -> None:
        table = np.loadtxt(file, delimiter=",", ndmin=2)
        inputs, targets = torch.from_numpy(table[:, :-1]).float(), torch.from_numpy(table[:, -1]).long()
        held_out = torch.arange(len(table)) % 10 == 0
        super().__init__(
            lambda: make_model(features),
            training=TensorDataset(inputs[~held_out], targets[~held_out]),
            held_out=TensorDataset(inputs[held_out], targets[held_out]),
            defaults=TrainingSettings(epochs=5, learning_rate=0.05, class_weights="balanced"),
        )

    def compute_metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """Return F1 and the area under the ROC curve, of all held-out rows at once.

        Rows of one class alone have no AUC: it is left out.
        """
        found, failed = outputs.argmax(dim=1) == 1, targets == 1
        hits = float((found & failed).sum())
        metrics = {"f1": 2 * hits / max(1.0, float(found.sum() + failed.sum()))}
        score = outputs[:, 1] - outputs[:, 0]
        pairs = score[failed][:, None] - score[~failed][None, :]
        if pairs.numel():
            metrics["auc"] = float(((pairs > 0).double() + (pairs == 0).double() / 2).mean())
        return metrics


def make_model(features: int) -> nn.Module:
    """Return a small network. It normalizes each row by itself: devices' own figures may differ widely."""
    return nn.Sequential(nn.Linear(features, 32), nn.LayerNorm(32), nn.ReLU(), nn.Linear(32, 2))
