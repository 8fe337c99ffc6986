"""A training whose model is downloaded and evaluated: its fit, and what follows it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from components.runtime.component_errors import WorkFailed
from components.trainer.tasks.task import Fit, Report, Settings, Stop, Task
from components.trainer.worker.local_metrics import (
    checked_count,
    logged_unsent,
    sendable,
    with_local_metrics,
)
from components.trainer.worker.model_parts import ModelParts
from components.trainer.worker.scaffold_client import ScaffoldTraining
from components.trainer.worker.update_writer import write_update, write_whole_update
from components.trainer.worker.worker_protocol import Result, WorkOrder
from fedgrass.federation import training_settings
from fedgrass.federation.messages import message_fields
from fedgrass.federation.weights import Arrays, Layout, Written

Unsent = dict[str, str]  # dropped metrics by name, each with the reason


@dataclass(frozen=True, kw_only=True)
class PreparedTraining:
    """An assignment after the evaluation of its model. Times are those of ``time.monotonic``.

    Attributes:
        work: the assignment.
        task: performs it.
        model: the run's arrays as downloaded.
        layout: of them.
        given: all arrays of the task, from which the training starts.
        parts: what this device adds to the run's model; None if the whole model travels.
        scaffold: the training with SCAFFOLD's correction; None for other aggregations.
        result: of the evaluation.
        unsent: the metrics that were dropped.
        arrived_at: when the worker got the assignment.
        evaluated_at: when the evaluation ended.
    """

    work: WorkOrder
    task: Task
    model: Arrays
    layout: Layout
    given: Mapping[str, NDArray[np.generic]]
    parts: ModelParts | None
    scaffold: ScaffoldTraining | None
    result: Result
    unsent: Unsent
    arrived_at: float
    evaluated_at: float

    @property
    def settings(self) -> Settings:
        """The run's settings of the training."""
        return training_settings.task_settings(self.work.announcement.settings)

    def evaluated(self) -> Result:
        """Return the result of an assignment that is an evaluation only."""
        return msgspec.structs.replace(self.result, unsent_metrics=logged_unsent(self.unsent))

    def fit(self, report: Report, stop: Stop) -> Fit:
        """Train; exceptions of the task are not caught."""
        return (self.scaffold or self.task).fit(self.given, self.settings, report, stop)

    def finish(self, fit: Fit, stop: Stop, rng: np.random.Generator | None = None) -> Result:
        """Write the update of a training, evaluate its model, and return the result.

        Args:
            fit: of the training.
            stop: returns whether the result is needed soon.
            rng: for the stochastic rounding of int8; None: a new one.

        Raises:
            WorkFailed: the training was stopped early, or its update cannot be used.
        """
        announcement, task = self.work.announcement, self.task
        if fit.partial and not announcement.allow_partial:
            message = f"the training was stopped after {fit.examples} examples"
            raise WorkFailed(message)
        update = self.parts.split(fit) if self.parts else fit
        written = self._write(fit, update, rng)
        trained_at = time.monotonic()
        result = _training_result(self.result, fit, written, trained_at - self.evaluated_at, self.unsent)
        result.timeline["train"] = (self.evaluated_at - self.arrived_at, trained_at - self.arrived_at)
        if stop():
            return result
        # After the update has been written: whatever the evaluation does to the arrays cannot change it.
        seconds_left = announcement.deadline_seconds - (trained_at - self.arrived_at)
        after = self.parts.after(fit) if self.parts else fit.weights
        measured = with_local_metrics(result, after, task.evaluate, announcement, seconds_left)
        if measured is not result:
            ended = time.monotonic() - self.arrived_at
            measured.timeline["evaluate_local"] = (trained_at - self.arrived_at, ended)
        return measured

    def _write(self, fit: Fit, update: Fit, rng: np.random.Generator | None) -> Written:
        if self.scaffold:
            return self.scaffold.write(update, self.model, rng)
        if fit.update is not None:
            return write_whole_update(self.work, fit.update)
        return write_update(
            self.work, update.weights, self.model, self.layout, trained=update.trained, rng=rng
        )


def _training_result(result: Result, fit: Fit, written: Written, seconds: float, unsent: Unsent) -> Result:
    """Add what a training has produced to the result of the evaluation before it.

    Args:
        result: of the evaluation.
        fit: of the training.
        written: the update file.
        seconds: duration of the training.
        unsent: metrics dropped so far; those of the training are added.
    """
    training, others = sendable(fit.metrics)
    measured = {name: value for name, value in result.metrics.items() if name not in training}
    training, too_many = sendable(training, message_fields.MOST_METRICS - len(measured))
    unsent.update({**others, **too_many})
    return msgspec.structs.replace(
        result,
        bytes=written.bytes,
        checksum=written.checksum,
        examples=checked_count(fit.examples, "trained on", smallest=1),
        metrics=measured,
        train_metrics=training,
        unsent_metrics=logged_unsent(unsent),
        train_seconds=seconds,
        partial=fit.partial,
    )
