"""A task with gradient-boosted trees: classifies the rows of a table with XGBoost, without PyTorch.

    fedgrass task check boosted_trees:BoostedTrees --path docs/examples --option file=machine.csv

The CSV file has one row per example and contains only numbers: the features, then the class, 0 or 1. A value
that is missing is ``nan``. Runs of this task need ``aggregation: tree_bagging``.
"""

import numpy as np

from components.trainer.tasks.partition import parse_partition
from components.trainer.trees import TreeSettings, XGBoostTask


class BoostedTrees(XGBoostTask):
    """Predicts the class of a row.

    Args:
        file: path of the CSV file.
        partition_options: for experiments, which share of the rows this device has: ``share``, ``shares``,
            ``split`` (docs/own_task.md).
    """

    def __init__(self, file: str, **partition_options: float | str) -> None:
        table = np.loadtxt(file, delimiter=",", ndmin=2)
        partition = parse_partition("boosted_trees", partition_options)
        rows = table[partition.places(table[:, -1].tolist())]
        held_out = np.arange(len(rows)) % 5 == 0
        super().__init__(
            training=(rows[~held_out, :-1], rows[~held_out, -1]),
            held_out=(rows[held_out, :-1], rows[held_out, -1]),
            objective="binary:logistic",
            params=TreeSettings(max_depth=4, eta=0.3),
        )
