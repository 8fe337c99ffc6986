"""``XGBoostTask``: implements the interface of tasks for gradient-boosted trees and a table of numbers."""

import hashlib
import math
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import xgboost
from numpy.typing import NDArray

from components.runtime.component_errors import WorkFailed
from components.trainer.tasks.task import Evaluation, Fit, InputRefused, Predict, Report, Settings, Stop
from components.trainer.trees.booster import full_booster, margin_booster, margins, trees_in
from components.trainer.trees.example_table import Source, Table, check_classes, check_inputs, read_table
from components.trainer.trees.objectives import find_objective, margin_of
from components.trainer.trees.tree_settings import TreeSettings, parse_tree_settings
from fedgrass.federation import weights as weight_files
from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.statistics.statistics_query import LABELS
from fedgrass.federation.weights import Arrays
from fedgrass.federation.weights.tree_ensemble import (
    MODEL_ARRAYS,
    Ensemble,
    Trees,
    check_layout_of_trees,
    ensemble_of,
    join,
    no_trees,
)


class XGBoostTask:
    """A task for XGBoost and a table of numbers; its runs need the aggregation ``tree_bagging``.

    A complete task; its options, here ``file``, come from the component's configuration:

        class Pumps(XGBoostTask):
            def __init__(self, file: str = "/data/pumps.csv") -> None:
                table = np.loadtxt(file, delimiter=",")
                X, y = table[:, :-1], table[:, -1]
                held_out = np.arange(len(y)) % 10 == 0
                super().__init__(
                    training=(X[~held_out], y[~held_out]),
                    held_out=(X[held_out], y[held_out]),
                    objective="binary:logistic",
                    params=TreeSettings(max_depth=4, eta=0.1),
                )

    Each round adds trees to the ensemble of the fleet: XGBoost boosts the margins of the global model on the
    device's examples, and the new trees are sent. The table never leaves the device; thresholds of splits
    are values of its features, or means of two.

    Args:
        training: the examples to train on, (X, y): a table of numbers of shape (n, features), NaN for missing
            values, and n targets; or a function that returns them, called before each assignment.
        held_out: local examples that are never trained on, for the evaluation; the same types.
        objective: ``binary:logistic`` (targets 0 and 1), ``multi:softprob`` (0 to ``classes`` - 1),
            ``reg:squarederror`` or ``count:poisson``.
        classes: the number of classes, for ``multi:softprob``.
        params: settings of the training that a run does not choose.
        base_score: prediction before the first tree: a probability of class 1 (0.5), a number (0, for a
            regression better the targets' mean), an expected count (1). The same on all devices.
        features: the number of features; by default the columns of the training examples.

    Raises:
        WorkFailed: an argument cannot be used.
    """

    def __init__(  # noqa: PLR0913 - the parts of a task
        self,
        training: Source,
        held_out: Source,
        *,
        objective: str,
        classes: int = 0,
        params: TreeSettings | Mapping[str, Any] | None = None,
        base_score: float | None = None,
        features: int | None = None,
    ) -> None:
        self._training = training
        self._held_out = held_out
        self._objective = find_objective(objective, classes)
        given = params if isinstance(params, TreeSettings) else TreeSettings()
        self._defaults = parse_tree_settings({} if isinstance(params, TreeSettings) else params or {}, given)
        self._base_score = self._objective.base_score if base_score is None else base_score
        self._margin = margin_of(self._objective, self._base_score)
        self._features = features
        self._kept: tuple[bytes, xgboost.Booster] | None = None  # the last model, by its SHA-256
        self._threads = max(1, int(os.environ.get("OMP_NUM_THREADS", "1")))

    def initial_weights(self, seed: int) -> dict[str, NDArray[Any]]:  # noqa: ARG002 - nothing is random
        """Return an ensemble without trees, whose prediction is the base score."""
        features = self._features or self._read(self._training, "training").inputs.shape[1]
        base = np.full(self._objective.groups, self._margin, np.float32)
        return Ensemble(self._objective.name, features, base, no_trees()).arrays()

    def examples(self) -> int:
        """Return the current number of training examples."""
        return len(self._read(self._training, "training"))

    def features(self) -> dict[str, NDArray[Any]]:
        """Return the training examples for federated statistics: the table and its targets.

        ``x`` is a float32 array of shape (n, features). Classes are ``labels``, int64 of shape (n,); other
        targets are ``target``, float32 of shape (n,).
        """
        table = self._read(self._training, "training")
        if self._objective.classes:
            return {"x": table.inputs, LABELS: table.targets.astype(np.int64)}
        return {"x": table.inputs, "target": table.targets}

    def evaluate(self, weights: Arrays) -> Evaluation:
        """Evaluate a model on the held-out examples; see ``objectives`` for the metrics."""
        table = self._read(self._held_out, "held_out")
        model = self._model(weights)
        if not len(table):
            return Evaluation(0)
        found = self._margins(model, self._fitting(table, model))
        return Evaluation(len(table), self._objective.measure(found, table.targets))

    def fit(self, weights: Arrays, settings: Settings, report: Report, stop: Stop) -> Fit:
        """Boost the global ensemble by ``trees_per_round`` rounds on the training examples.

        Args:
            weights: the global model.
            settings: the run's settings, which override ``params``; see ``TreeSettings``.
            report: takes the completed fraction after each boosting round.
            stop: called after each of them. Once it returns True, the trees so far are returned.

        Returns:
            The global trees and the new ones as weights, the new trees alone as the update.

        Raises:
            WorkFailed: there are no examples, a setting is invalid, or a tree is too large for the run.
        """
        chosen = parse_tree_settings(settings, self._defaults)
        table, model = self._read(self._training, "training"), self._model(weights)
        if not len(table):
            message = "there are no examples to train on: training has no rows"
            raise WorkFailed(message)
        inputs = self._fitting(table, model)
        start = self._margins(model, inputs)
        matrix = xgboost.DMatrix(inputs, label=table.targets, base_margin=start, nthread=self._threads)
        progress = _Progress(report, stop, chosen.trees_per_round)
        new = trees_in(
            xgboost.train(
                self._parameters(chosen, model.trees.total),
                matrix,
                num_boost_round=chosen.trees_per_round,
                callbacks=[progress],
            )
        )
        _check_trees(new, chosen)
        grown = model._replace(trees=join([model.trees, new]))
        return Fit(
            grown.arrays(),
            len(table),
            {"trees": float(grown.trees.total)},
            partial=progress.stopped,
            update=new.arrays(),
        )

    def predictor(self, weights: Arrays) -> Predict:
        """Return a function from rows of numbers to predictions.

        A row is a list with a number or null for each feature; a prediction is the probability of class 1, a
        list of the probabilities of all classes, or a number.
        """
        model = self._model(weights)
        booster, predict = margin_booster(model), self._objective.predict

        def predict_rows(rows: Sequence[object]) -> list[object]:
            inputs = _rows(rows, model.features)
            found: list[object] = predict(margins(booster, model.base_score, inputs)).tolist()
            return found

        return predict_rows

    def booster(self, weights: Arrays) -> xgboost.Booster:
        """Return a model of a run as XGBoost's own, to be saved or inspected (docs/own_task.md)."""
        return full_booster(self._model(weights), self._objective.of_xgboost(), self._threads)

    def _margins(self, model: Ensemble, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the margins of examples, of shape (n, G); the last booster is kept: it is slow to make."""
        digest = hashlib.sha256(b"".join(array.tobytes() for array in model.arrays().values())).digest()
        if self._kept is None or self._kept[0] != digest:
            self._kept = digest, margin_booster(model, self._threads)
        return margins(self._kept[1], model.base_score, inputs, self._threads)

    def _parameters(self, chosen: TreeSettings, trees: int) -> dict[str, Any]:
        seed = secrets.randbits(31) if chosen.seed is None else (chosen.seed + trees) % 2**31
        return {
            **self._objective.of_xgboost(),
            **chosen.of_xgboost(),
            "base_score": 0.5,  # not used: the margins to start from are given
            "seed": seed,
            "nthread": self._threads,
            "validate_parameters": True,
            "verbosity": 0,
        }

    def _read(self, source: Source, what: str) -> Table:
        table = read_table(source, what)
        if self._objective.classes:
            check_classes(table, self._objective.classes, what)
        elif self._objective.name == "count:poisson" and (table.targets < 0).any():
            message = f"{what}: y has the value {table.targets.min():g}; a count is at least 0"
            raise WorkFailed(message)
        return table

    def _model(self, weights: Arrays) -> Ensemble:
        """Return a model, checked to be one of this task. Raises WorkFailed."""
        try:
            encoded = {
                name: weight_files.unencoded(array, weight_files.dtype_of(name, array))
                for name, array in weights.items()
            }
            check_layout_of_trees(weight_files.layout_of(encoded), MODEL_ARRAYS)
            model = ensemble_of(weights)
        except UpdateRefused as error:
            message = f"the model is not an ensemble of trees: {error}"
            raise WorkFailed(message) from error
        own = self._objective
        if (model.objective, model.groups) != (own.name, own.groups):
            message = (
                f"the model has the objective {model.objective!r} with {model.groups} groups, the task"
                f" {own.name!r} with {own.groups}: start the run from this task's initial model"
            )
            raise WorkFailed(message)
        return model

    def _fitting(self, table: Table, model: Ensemble) -> NDArray[np.float32]:
        if table.inputs.shape[1] != model.features:
            message = f"the examples have {table.inputs.shape[1]} features, the model {model.features}"
            raise WorkFailed(message)
        return table.inputs


class _Progress(xgboost.callback.TrainingCallback):  # type: ignore[misc] # XGBoost's types are not read
    """Reports the completed fraction of a training, and ends it on request."""

    def __init__(self, report: Callable[[float], None], stop: Stop, rounds: int) -> None:
        super().__init__()
        self._report = report
        self._stop = stop
        self._rounds = rounds
        self.stopped = False

    def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:  # noqa: ARG002 - XGBoost's interface
        """Return whether the training ends after this boosting round."""
        self._report((epoch + 1) / self._rounds)
        self.stopped = epoch + 1 < self._rounds and self._stop()
        return self.stopped


def _check_trees(trees: Trees, chosen: TreeSettings) -> None:
    """Check that the run takes the trees of a training. Raises WorkFailed."""
    largest = int(trees.nodes.max())
    if largest > chosen.most_nodes:
        message = (
            f"a tree has {largest} nodes, {chosen.most_nodes} is the most of the run (most_nodes in its"
            " aggregation_options): choose a smaller max_depth, or max_leaves"
        )
        raise WorkFailed(message)
    if not np.isfinite(trees.value).all():
        message = (
            "the training made a tree whose values are not finite: choose a smaller eta, or scale the targets"
        )
        raise WorkFailed(message)


def _rows(rows: Sequence[object], features: int) -> NDArray[np.float32]:
    """Return the inputs of applications as a table of shape (n, features). Raises InputRefused."""
    table = np.full((len(rows), features), math.nan)
    for number, row in enumerate(rows):
        if not isinstance(row, Sequence) or isinstance(row, str) or len(row) != features:
            found = f"{len(row)} values" if isinstance(row, list) else f"a {type(row).__name__}"
            message = f"inputs[{number}] is {found}; the model takes a list of {features} numbers"
            raise InputRefused(message)
        for column, value in enumerate(row):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                message = (
                    f"inputs[{number}][{column}] is {value!r}; it takes a number, or null if it is missing"
                )
                raise InputRefused(message)
            try:
                table[number, column] = math.nan if value is None else value
            except OverflowError as error:
                message = f"inputs[{number}][{column}] is too large for a float"
                raise InputRefused(message) from error
    try:
        check_inputs(table, "inputs")
    except WorkFailed as error:
        raise InputRefused(str(error)) from error
    return table.astype(np.float32)
