"""SCAFFOLD in one work: what the training corrects its gradients by, what it sends and remembers for that.

The arithmetic is fedgrass/federation/aggregation/scaffold.py; the corrected training is the task's
``fit_corrected``.
"""

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from components.runtime.component_errors import WorkFailed
from components.trainer.tasks.task import CorrectableTask, Fit, GradientSteps, Report, Settings, Stop, Task
from components.trainer.worker.update_writer import CONTROL, fitting, load_memory, write_update
from components.trainer.worker.worker_protocol import Work
from fedgrass.federation import weights
from fedgrass.federation.aggregation import scaffold
from fedgrass.federation.aggregation.scaffold import Control
from fedgrass.federation.encodings.array_types import bfloat16_to_float32
from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.messages import Carried
from fedgrass.federation.weights import Arrays, Layout, Written
from fedgrass.federation.weights.auxiliary_state import auxiliary_layout, auxiliary_name, update_layout
from fedgrass.federation.weights.trained_arrays import statistics_among


def correctable(name: str, task: Task, carried: Carried) -> CorrectableTask:
    """Return the task ``name``, which can do what updates are to carry.

    Raises:
        WorkFailed: it has no corrected training, or updates are to carry what this trainer does not know.
    """
    if carried.keys() != {CONTROL}:
        message = (
            f"updates are to carry {', '.join(sorted(carried))}, which this trainer does not know: it knows"
            f" only {CONTROL}, of the aggregation scaffold"
        )
        raise WorkFailed(message)
    if not isinstance(task, CorrectableTask):
        message = (
            f"task {name!r} cannot train for the aggregation scaffold, since it has no method fit_corrected"
            " (docs/own_task.md): give it one, or choose another aggregation for the run"
        )
        raise WorkFailed(message)
    return task


def server_control(model: Layout, file: bytes | None) -> Control:
    """Return the server's control variate, by the names of the model's arrays; an empty one is all zeros.

    Args:
        model: the layout of the model.
        file: as it was downloaded; None while the server has none.

    Raises:
        WorkFailed: it is not of this model.
    """
    if file is None:
        return {}
    try:
        layout = weights.read_layout(file, len(file))
        weights.check_layout(layout, auxiliary_layout(model, [CONTROL]))
    except UpdateRefused as error:
        message = f"the server's control variate cannot be used: {error}"
        raise WorkFailed(message) from error
    start = auxiliary_name(CONTROL, "")
    found = weights.views(file, layout)
    return {name.removeprefix(start): np.asarray(array, np.float32) for name, array in found.items()}


class Corrected:
    """The training of one work, corrected by the control variates of the server and of the device.

    Args:
        work: the work.
        task: trains.
        model: the layout of the model.
        server: the server's control variate.
    """

    def __init__(self, work: Work, task: CorrectableTask, model: Layout, server: Control) -> None:
        self._work = work
        self._task = task
        self._model = model
        self._server = server
        start = auxiliary_name(CONTROL, "")
        carried = auxiliary_layout(model, [CONTROL]).arrays
        self._shapes = {name.removeprefix(start): array.shape for name, array in carried.items()}
        self._own = fitting(work, load_memory(work).control, self._shapes)

    def fit(self, model: Arrays, settings: Settings, report: Report, stop: Stop) -> Fit:
        """Train as the task's own ``fit`` does, each gradient corrected."""
        correction = scaffold.correction(self._server, self._own)
        return self._task.fit_corrected(model, settings, report, stop, correction)

    def write(self, fit: Fit, start: Arrays) -> Written:
        """Write the update with the change of the control variate behind the model's arrays.

        Raises:
            WorkFailed: the task does not say its steps, or made what the cloud would refuse.
        """
        steps = self._checked_steps(fit)
        trained = fit.trained if steps.arrays is None else steps.arrays
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused by name
            change = self._change(start, fit.weights, steps, trained)
            control = scaffold.control_after(self._own, change)
        carried = {auxiliary_name(CONTROL, name): array for name, array in change.items()}
        zeros = {name: np.zeros_like(array) for name, array in carried.items()}
        return write_update(
            self._work,
            {**fit.weights, **carried},
            {**start, **zeros},
            update_layout(self._model, [CONTROL]),
            control,
            trained=trained,
        )

    def _checked_steps(self, fit: Fit) -> GradientSteps:
        steps = fit.steps
        if steps is None or steps.count < 1 or not steps.learning_rate > 0:
            message = (
                "the task's fit_corrected has to say its steps, 1 or more, and a learning rate above 0:"
                f" it said {steps}"
            )
            raise WorkFailed(message)
        for name, shape in self._shapes.items():
            array = fit.weights.get(name)
            if array is None or array.shape != shape:
                found = "missing" if array is None else f"of shape {array.shape}"
                message = f"the task's fit_corrected gave array {name!r} {found}; the model's has {shape}"
                raise WorkFailed(message)
        return steps

    def _change(
        self, start: Arrays, after: Arrays, steps: GradientSteps, trained: Collection[str] | None
    ) -> Control:
        # What no gradient moves, such as a layer's running mean, has no control: its change is zero.
        moved = self._shapes.keys() - statistics_among(self._shapes, trained)
        change = scaffold.control_change(
            {name: self._floats(name, start) for name in moved},
            {name: self._floats(name, after) for name in moved},
            self._server,
            steps.count,
            steps.learning_rate,
        )
        return {**{name: np.zeros(shape, np.float32) for name, shape in self._shapes.items()}, **change}

    def _floats(self, name: str, arrays: Arrays) -> NDArray[np.float32]:
        values = arrays[name]
        of_bits = self._model.arrays[name].dtype == "BF16" and values.dtype == weights.DTYPES["BF16"]
        if of_bits or values.dtype == weights.BFLOAT16:
            return bfloat16_to_float32(values)
        return np.asarray(values, dtype=np.float32)
