"""The client of SCAFFOLD: corrected local training, and the change of the client's control variate.

Karimireddy et al., "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning", ICML 2020
(https://arxiv.org/abs/1910.06378), algorithm 1 with option II. Each local gradient is corrected by c - c_i,
where c is the server's control variate and c_i the client's; afterwards the client sends the change of c_i
with its update. The arithmetic is in fedgrass/federation/aggregation/scaffold.py, the corrected training in
the task's ``fit_corrected``.
"""

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from components.runtime.component_errors import WorkFailed
from components.trainer.tasks.task import CorrectableTask, Fit, GradientSteps, Report, Settings, Stop, Task
from components.trainer.worker.update_writer import CONTROL, load_client_state, same_shapes_only, write_update
from components.trainer.worker.worker_protocol import WorkOrder
from fedgrass.federation import weights
from fedgrass.federation.aggregation import scaffold
from fedgrass.federation.aggregation.scaffold import Control
from fedgrass.federation.encodings.array_types import bfloat16_to_float32
from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.messages import Carried
from fedgrass.federation.weights import Arrays, Layout, Written
from fedgrass.federation.weights.array_roles import (
    auxiliary_layout,
    auxiliary_name,
    statistics_among,
    update_layout,
)


def correctable(name: str, task: Task, auxiliary: Carried) -> CorrectableTask:
    """Return the task, checked to support SCAFFOLD.

    Args:
        name: of the task, for messages.
        task: the task.
        auxiliary: the auxiliary state that updates must carry, by kind.

    Raises:
        WorkFailed: the task has no ``fit_corrected``, or this version does not support the auxiliary state.
    """
    if auxiliary.keys() != {CONTROL}:
        message = (
            f"updates must carry {', '.join(sorted(auxiliary))}, which this trainer does not support: it"
            f" supports only {CONTROL}, for the aggregation scaffold"
        )
        raise WorkFailed(message)
    if not isinstance(task, CorrectableTask):
        message = (
            f"task {name!r} cannot train for the aggregation scaffold, since it has no method fit_corrected"
            " (docs/own_task.md): add one, or choose another aggregation for the run"
        )
        raise WorkFailed(message)
    return task


def server_control(model: Layout, file: bytes | None) -> Control:
    """Decode the server's control variate.

    Args:
        model: the layout of the model.
        file: the downloaded safetensors file; None if the server has no control variate yet.

    Returns:
        float32 arrays by the names of the model's arrays; empty stands for zeros.

    Raises:
        WorkFailed: it does not match the model.
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
    arrays = weights.views(file, layout)
    return {name.removeprefix(start): np.asarray(array, np.float32) for name, array in arrays.items()}


class ScaffoldTraining:
    """The training of one assignment, corrected by the control variates of the server and of the device.

    Args:
        work: the assignment.
        task: performs the corrected training.
        model: the layout of the model.
        server: the server's control variate.
    """

    def __init__(self, work: WorkOrder, task: CorrectableTask, model: Layout, server: Control) -> None:
        self._work = work
        self._task = task
        self._model = model
        self._server = server
        start = auxiliary_name(CONTROL, "")
        auxiliary = auxiliary_layout(model, [CONTROL]).arrays
        self._shapes = {name.removeprefix(start): array.shape for name, array in auxiliary.items()}
        self._own = same_shapes_only(work, load_client_state(work).control, self._shapes)

    def fit(self, model: Arrays, settings: Settings, report: Report, stop: Stop) -> Fit:
        """Train as the task's ``fit`` does, with each gradient corrected by c - c_i."""
        return self._task.fit_corrected(model, settings, report, stop, self.correction())

    def correction(self) -> Control:
        """Return c - c_i, which is added to each gradient: float32 arrays by the names of the model's."""
        return scaffold.correction(self._server, self._own)

    def write(self, fit: Fit, start: Arrays, rng: np.random.Generator | None = None) -> Written:
        """Write the update: the model's arrays, followed by the change of the device's control variate.

        Args:
            fit: the result of the training.
            start: the global model from which it started.
            rng: as for ``write_update``.

        Raises:
            WorkFailed: the task did not report its steps, or the cloud would refuse the update.
        """
        steps = self._checked_steps(fit)
        trained = fit.trained if steps.arrays is None else steps.arrays
        with np.errstate(over="ignore", invalid="ignore"):  # non-finite arrays are refused by name later
            change = self._change(start, fit.weights, steps, trained)
            control = scaffold.control_after(self._own, change)
        auxiliary = {auxiliary_name(CONTROL, name): array for name, array in change.items()}
        zeros = {name: np.zeros_like(array) for name, array in auxiliary.items()}
        return write_update(
            self._work,
            {**fit.weights, **auxiliary},
            {**start, **zeros},
            update_layout(self._model, [CONTROL]),
            control,
            trained=trained,
            rng=rng,
        )

    def _checked_steps(self, fit: Fit) -> GradientSteps:
        steps = fit.steps
        if steps is None or steps.count < 1 or not steps.learning_rate > 0:
            message = (
                "the task's fit_corrected must return its steps, 1 or more, and a learning rate above 0,"
                f" not {steps}"
            )
            raise WorkFailed(message)
        for name, shape in self._shapes.items():
            array = fit.weights.get(name)
            if array is None or array.shape != shape:
                found = "no array" if array is None else f"shape {array.shape} for array"
                message = f"the task's fit_corrected returned {found} {name!r}; the model's shape is {shape}"
                raise WorkFailed(message)
        return steps

    def _change(
        self, start: Arrays, after: Arrays, steps: GradientSteps, trained: Collection[str] | None
    ) -> Control:
        # Arrays without gradients, such as running means, have no control variate: their change is zero.
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
        is_bits = self._model.arrays[name].dtype == "BF16" and values.dtype == weights.DTYPES["BF16"]
        if is_bits or values.dtype == weights.BFLOAT16:
            return bfloat16_to_float32(values)
        return np.asarray(values, dtype=np.float32)
