"""A task for tables: detects rare failures in a machine's measurements; evaluated by F1 and AUC.

    fedgrass task check tabular_classifier:TabularClassifier --path docs/examples --option file=machine.csv

The CSV file has one row per example and contains only numbers: the features, then 1 for a failure, else 0.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from components.trainer.training import TorchTask, TrainingSettings


class TabularClassifier(TorchTask):
    """Predicts whether a machine will fail.

    Args:
        file: path of the CSV file.
        features: number of feature columns.
    """

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
        """Return F1 and the area under the ROC curve over all held-out rows.

        The AUC is undefined, and omitted, if all rows are of one class.

        Args:
            outputs: logits, float32 of shape (n, 2).
            targets: classes, int64 of shape (n,).
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
    """Return a network of two linear layers, for inputs of shape (batch, features).

    Layer normalization is independent of other rows: the measurements of devices may differ widely.
    """
    return nn.Sequential(nn.Linear(features, 32), nn.LayerNorm(32), nn.ReLU(), nn.Linear(32, 2))
