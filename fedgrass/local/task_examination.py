"""Check a task on a small sample: its data, weights, gradients, evaluation, training and stopping.

The functions check single results of a task; ``Examination`` runs the checks in order, each of which needs
the results of those before it.
"""

import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeGuard, TypeVar

import numpy as np

from components.trainer.tasks.task import Evaluation, Fit, Task
from components.trainer.worker.local_metrics import describe_unsent, sendable
from fedgrass.federation import weights
from fedgrass.federation.aggregation.tree_bagging import MOST_PER_ROUND, TREES_PER_ROUND, TreeBagging
from fedgrass.federation.encodings.array_types import read_arrays
from fedgrass.federation.errors import FedgrassError
from fedgrass.federation.weights import Arrays
from fedgrass.federation.weights.array_sharing import Role, Roles
from fedgrass.local.task_loading import explain
from fedgrass.local.task_sharing import array_lines, check_frozen, describe_roles, initial_model

Found = TypeVar("Found")

if TYPE_CHECKING:  # tasks without PyTorch are checked without importing it
    from components.trainer.training import TorchTask

_EPOCHS = 10  # within which the loss must fall
_STOP_SECONDS = 10.0  # within which training must end after a request to stop


class CheckFailed(FedgrassError):
    """A task violates a requirement; the message has the requirement and the way out."""


def expect(found: object, kind: type[Found], method: str) -> Found:
    """Return the result of a method. Raises CheckFailed if it is not of the right type."""
    if not isinstance(found, kind):
        message = f"{method}() returns a {type(found).__name__}; it must return a {kind.__name__}"
        raise CheckFailed(message)
    return found


def check_arrays(first: Arrays, second: Arrays) -> None:
    """Check initial weights: numpy arrays, finite, and equal for equal seeds. Raises CheckFailed."""
    for name, array in first.items():
        if not isinstance(array, np.ndarray):
            message = f"initial_weights() returns {name!r} as a {type(array).__name__}; it takes numpy arrays"
            raise CheckFailed(message)
    weights.check_finite(first)
    same = first.keys() == second.keys()
    if not same or any(not np.array_equal(first[name], second[name]) for name in first):
        message = "initial_weights() returns different values for the same seed: draw them only from the seed"
        raise CheckFailed(message)


def through_a_file(arrays: Arrays) -> Arrays:
    """Encode and decode arrays; return them as a device receives them, read-only.

    Raises:
        CheckFailed: an array does not survive this bit for bit.
    """
    back = read_arrays(weights.encode(arrays))
    for name, array in arrays.items():
        found = back[name]
        if (found.dtype, found.shape, found.tobytes()) != (array.dtype, array.shape, array.tobytes()):
            message = f"array {name!r} ({array.dtype}) changes when it is written to a file and read again"
            raise CheckFailed(message)
    return back


def encode_update(fit: Fit, model: Arrays) -> bytes:
    """Return the file of an update. Raises UpdateRefused if the cloud would refuse it."""
    weights.check_finite(fit.weights)
    base = weights.encode(model)
    layout = weights.read_layout(base, len(base))
    if fit.update is not None:
        return _encode_trees(fit.update, model)
    update = weights.encode(fit.weights)
    weights.check_layout(weights.read_layout(update, len(update)), layout)
    return update


def _encode_trees(update: Arrays, model: Arrays) -> bytes:
    """Return the file of new trees. Raises UpdateRefused if no run would take them."""
    data = weights.encode(update)
    most: dict[str, bool | int | float | str] = {TREES_PER_ROUND: MOST_PER_ROUND}
    TreeBagging().check_update(weights.read_layout(data, len(data)), update, model, most)
    return data


def unsendable(metrics: object) -> str:
    """Return the metrics that a device would leave out, with the reasons; empty if all can be sent.

    Raises:
        CheckFailed: the loss is among them, which the checks need.
    """
    _, unsent = sendable(metrics)
    if reason := unsent.get("loss"):
        message = f"the metric 'loss' is {reason}: it cannot be sent"
        raise CheckFailed(message)
    return describe_unsent(unsent)


def check_report(fraction: float) -> None:
    """Check the progress that a training reports. Raises CheckFailed."""
    if not 0 <= float(fraction) <= 1:
        message = f"report() was called with {fraction}; it takes the completed fraction, 0 to 1"
        raise CheckFailed(message)


class Finding(NamedTuple):
    """The result of a check that passed; a ``note`` needs the judgement of the operator."""

    kind: Literal["ok", "note"]
    text: str
    lines: Sequence[str] = ()  # further lines, each printed by itself


class Examination:
    """Examines one task.

    Args:
        task: the task.
        settings: training settings, which override those of the check (one epoch, seed 0).
        examples: number of examples to use of a ``TorchTask``.
        seconds: time after which a training is stopped.
    """

    def __init__(
        self, task: Task, settings: Mapping[str, bool | int | float | str], examples: int, seconds: float
    ) -> None:
        self._task = task
        self._settings = settings
        self._most = examples
        self._seconds = seconds
        self._model: Arrays = {}
        self._roles = Roles({})
        self._examples = 0
        self._update_bytes = 0
        self._epoch_seconds = 0.0

    def steps(self) -> dict[str, Callable[[], Finding]]:
        """Return the checks by name, in order; each raises CheckFailed or the error of the task."""
        return {
            "examples": self._count,
            "weights": self._check_weights,
            "roles": self._check_roles,
            "gradients": self._check_gradients,
            "evaluation": self._check_evaluation,
            "training": self._check_training,
            "stopping": self._check_stop,
        }

    def first_batch(self) -> str:
        """Return the shapes and types of the first batch, which explain most errors."""
        if not _is_torch(self._task):
            return ""
        try:
            from components.trainer.training.structures import describe  # noqa: PLC0415 - imports PyTorch

            inputs, targets = map(describe, self._task.first_batch())
        except Exception:  # noqa: BLE001 - this error is being reported already
            return ""
        return f" (the first batch has inputs {inputs}, targets {targets})"

    def needs(self) -> str:
        """Return the resources that a device needs for the task, after all checks have passed."""
        # ru_maxrss is in KiB on Linux.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        update = shown_size(self._update_bytes)
        return (
            f"resources of a device\n"
            f"      memory: {shown_size(peak)} while training, including the libraries\n"
            f"      disk: {update} for an update until it is uploaded\n"
            f"      per round: {update} up, the same down for the model\n"
            f"      time: about {self._epoch_seconds:.2g} s for an epoch of all {self._examples:,} examples,"
            " on a processor like this"
        )

    def _count(self) -> Finding:
        self._examples = int(self._task.examples())
        if self._examples < 1:
            message = f"there are no examples to train on: examples() returns {self._examples}"
            raise CheckFailed(message)
        if not _is_torch(self._task):
            return Finding("ok", f"{self._examples:,} to train on")
        self._task.sample(self._most)
        return Finding("ok", f"{self._examples:,} to train on, {self._task.examples():,} of them used here")

    def _check_weights(self) -> Finding:
        """Check that initial weights depend only on the seed, and survive a file bit for bit."""
        first, second = self._task.initial_weights(0), self._task.initial_weights(0)
        check_arrays(first, second)
        self._model = through_a_file(first)
        values = sum(array.size for array in first.values())
        return Finding("ok", f"{len(first)} arrays, {values:,} values; unchanged in a file, bit for bit")

    def _check_roles(self) -> Finding:
        """Check the roles of the arrays, and that frozen ones are the same on all devices."""
        found = initial_model(self._task, 0)
        self._roles = found.roles
        check_frozen(self._task, found.arrays)
        if found.roles.all_shared:
            return Finding("ok", "all arrays are shared: they are in the run's model")
        return Finding("ok", describe_roles(found), array_lines(found))

    def _check_gradients(self) -> Finding:
        if not _is_torch(self._task):
            return Finding("ok", "")
        gradients = self._task.gradients(self._model)
        if all(gradient is None for gradient in gradients.values()):
            message = "no parameter of the model has a gradient, so there is nothing to train"
            raise CheckFailed(message)
        for name, gradient in gradients.items():
            if gradient is not None and not bool(gradient.isfinite().all()):
                message = f"parameter {name!r} has a gradient that is not finite{self.first_batch()}"
                raise CheckFailed(message)
        if idle := [name for name, gradient in gradients.items() if gradient is None]:
            return Finding("note", f"finite, but these do not contribute to the loss: {', '.join(idle)}")
        return Finding("ok", f"finite for all {len(gradients)} parameters")

    def _check_evaluation(self) -> Finding:
        found = expect(self._task.evaluate(self._model), Evaluation, "evaluate")
        unsent = unsendable(found.metrics)
        metrics = ", ".join(f"{name} {value:.4g}" for name, value in sendable(found.metrics)[0].items())
        metrics = metrics or "no metrics"
        if unsent:
            return Finding("note", f"{metrics}; left out because they cannot be sent: {unsent}")
        if found.examples < 1:
            return Finding(
                "note", "no held-out examples, so the quality of a round's model cannot be measured"
            )
        if "loss" not in found.metrics:
            return Finding("note", f"{metrics}, but none is called 'loss', so progress cannot be measured")
        return Finding("ok", f"{metrics} on {found.examples:,} examples")

    def _check_training(self) -> Finding:
        trained, before, count, moved = self._model, self._loss(self._model), 0, ""
        now, until = before, time.monotonic() + self._seconds
        # A second epoch to measure the time: the first in a process also starts threads and fills caches.
        least = 2 if _is_torch(self._task) else 1
        while count < least or (now >= before and count < _EPOCHS and time.monotonic() < until):
            started = time.monotonic()
            fit = self._fit(trained, lambda: time.monotonic() > until)
            self._epoch_seconds = (time.monotonic() - started) * self._examples / max(1, fit.examples)
            moved = moved or self._moved_frozen(fit)
            fit = self._with_frozen(fit)
            update, unsent = encode_update(fit, self._model), unsendable(fit.metrics)
            trained = read_arrays(update) if fit.update is None else through_a_file(fit.weights)
            count, self._update_bytes = count + 1, self._sent_bytes(fit, update)
            now = self._loss(trained)
        passes = f"{count} {'epoch' if _is_torch(self._task) else 'fit'}{'s' if count > 1 else ''}"
        if now < before and unsent:
            lost = f"training metrics left out because they cannot be sent: {unsent}"
            return Finding("note", f"the loss fell from {before:.6g} to {now:.6g} in {passes}; {lost}")
        if now < before and moved:
            dropped = (
                f"the training changes the frozen array {moved!r}, which is dropped: freeze its layer (eval()"
                " for a batch normalization), or make the array private"
            )
            return Finding("note", f"the loss fell from {before:.6g} to {now:.6g} in {passes}; {dropped}")
        if now < before:
            return Finding("ok", f"the loss fell from {before:.6g} to {now:.6g} in {passes}")
        if np.isnan(before):
            return Finding("note", f"{passes} made a valid update; without a loss it cannot be compared")
        message = (
            f"the loss did not fall in {passes}: {before:.6g} before, {now:.6g} after; check the"
            " learning rate (--setting learning_rate=0.01), and that the targets match the inputs"
        )
        raise CheckFailed(message)

    def _moved_frozen(self, fit: Fit) -> str:
        """Return the first frozen array that a training has changed; empty if there is none."""
        frozen = self._roles.select(self._model, Role.FROZEN)
        after = {**frozen, **fit.weights}
        return next((name for name in frozen if not np.array_equal(after[name], frozen[name])), "")

    def _with_frozen(self, fit: Fit) -> Fit:
        """Return a training with the frozen arrays as they were, as a device continues."""
        return replace(fit, weights={**fit.weights, **self._roles.select(self._model, Role.FROZEN)})

    def _sent_bytes(self, fit: Fit, update: bytes) -> int:
        if fit.update is not None:
            return len(update)
        return len(weights.encode(self._roles.select(fit.weights, Role.SHARED)))

    def _check_stop(self) -> Finding:
        started = time.monotonic()
        try:
            partial = self._fit(self._model, lambda: True).partial
        except FedgrassError:
            partial = True  # it had no result to return, and raised an error
        except Exception as error:  # noqa: BLE001 - a task may stop by any exception
            return Finding("ok", f"the training ends by {explain(error)}")
        seconds = time.monotonic() - started
        if partial and seconds < _STOP_SECONDS:
            return Finding("ok", f"the training stopped {seconds:.2f} s after the request")
        return Finding("note", "the training ignores stop(): it can only be killed, and its work is lost")

    def _fit(self, model: Arrays, stop: Callable[[], bool]) -> Fit:
        defaults = {"epochs": 1, "seed": 0} if _is_torch(self._task) else {}
        found = self._task.fit(model, {**defaults, **self._settings}, check_report, stop)
        return expect(found, Fit, "fit")

    def _loss(self, model: Arrays) -> float:
        """Return the loss on the training examples of a ``TorchTask``, otherwise on held-out examples."""
        found = self._task.evaluate_training(model) if _is_torch(self._task) else self._task.evaluate(model)
        return sendable(found.metrics)[0].get("loss", np.nan)


def _is_torch(task: Task) -> "TypeGuard[TorchTask]":
    training = sys.modules.get("components.trainer.training")
    return training is not None and isinstance(task, training.TorchTask)


def shown_size(count: int) -> str:
    """Return a number of bytes with its unit."""
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count:,} bytes"  # noqa: PLR2004 - a megabyte
