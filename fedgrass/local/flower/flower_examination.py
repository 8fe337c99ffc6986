"""Call a Flower app as a device does, in one round and for queries, and measure what that takes."""

import resource
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from components.runtime.component_errors import ComponentError
from components.trainer.tasks.task import (
    Evaluation,
    Fit,
    MessageTask,
    RoundPlace,
    RunAwareTask,
    Task,
    TaskMessage,
)
from components.trainer.worker.local_metrics import sendable
from fedgrass.console.options import Value
from fedgrass.federation import weights
from fedgrass.federation.encodings.array_types import read_arrays
from fedgrass.federation.messages.message_types import MessageHeader
from fedgrass.federation.task_messages.message_content import Record
from fedgrass.federation.weights import Arrays
from fedgrass.local.task_examination import (
    CheckFailed,
    Finding,
    encode_update,
    expect,
    shown_size,
    unsendable,
)
from fedgrass.local.task_loading import explain

_TRAIN, _EVALUATE, _QUERY = "train", "evaluate", "query"
_DAY = 86_400.0


class FlowerExamination:
    """Examines one app.

    Args:
        task: the app as a task.
        types: types of the messages that the app has functions for.
        model: file with the initial model; missing: the ServerApp passes none.
        training: the run's settings of the training.
        folder: for the app's state.
    """

    def __init__(
        self, task: Task, types: Sequence[str], model: Path, training: Mapping[str, Value], folder: Path
    ) -> None:
        self._task = task
        self._types = types
        self._file = model
        self._training = training
        self._folder = folder
        self._model: Arrays = {}
        self._down = self._up = 0
        self._seconds: dict[str, float] = {}

    def steps(self) -> dict[str, Callable[[], Finding]]:
        """Return the checks by name, in order; each raises CheckFailed or the error of the app."""
        names = {_TRAIN: self._train, _EVALUATE: self._evaluate}
        found: dict[str, Callable[[], Finding]] = {}
        if any(one in names for one in self._types):
            found["model"] = self._get_model
        found |= {name: step for name, step in names.items() if name in self._types}
        queries = [one for one in self._types if one.partition(".")[0] == _QUERY]
        return found | {one: partial(self._ask, one) for one in queries}

    def needs(self, condition: str) -> str:
        """Return what a device needs, after all checks have passed."""
        # ru_maxrss is in KiB on Linux.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        times = ", ".join(f"{name} {seconds:.2g} s" for name, seconds in self._seconds.items())
        transfer = (
            f"\n      per round: {shown_size(self._down)} down, {shown_size(self._up)} up"
            if self._down
            else ""
        )
        return (
            f"resources of a device{' ' if condition else ''}{condition}\n"
            f"      time: {times or 'not measured'}, on a processor like this\n"
            f"      memory: {shown_size(peak)}, including the libraries{transfer}"
        )

    def _begin(self, number: int) -> None:
        if isinstance(self._task, RunAwareTask):
            place: dict[str, Any] = {
                "run": "check",
                "number": number,
                "device": "here",
                "state": self._folder / f"state-{number - 1}",
                "state_after": self._folder / f"state-{number}",
                "training": self._training,
            }
            self._task.begin_round(RoundPlace(**place))

    def _get_model(self) -> Finding:
        if self._file.is_file():
            self._model = read_arrays(self._file.read_bytes())
            source = "from the ServerApp"
        else:
            self._begin(1)
            try:
                self._model = dict(self._task.initial_weights(0))
            except ComponentError as error:
                message = f"neither ServerApp nor ClientApp have an initial model: {error}"
                raise CheckFailed(message) from error
            source = "from get_parameters of the ClientApp; `fedgrass run start` asks a device for it"
        weights.check_finite(self._model)
        self._down = len(weights.encode(self._model))
        values = sum(array.size for array in self._model.values())
        return Finding("ok", f"{len(self._model)} arrays, {values:,} values, {source}")

    def _train(self) -> Finding:
        self._begin(1)
        started = time.monotonic()
        fit = expect(self._task.fit(self._model, self._training, lambda _: None, lambda: False), Fit, "fit")
        self._seconds[_TRAIN] = time.monotonic() - started
        self._up = len(encode_update(fit, self._model))
        unsent = unsendable(fit.metrics)
        self._model = fit.weights
        text = f"{fit.examples:,} examples, {_shown(fit.metrics)}"
        return _finding(text, unsent)

    def _evaluate(self) -> Finding:
        self._begin(2)
        started = time.monotonic()
        found = expect(self._task.evaluate(self._model), Evaluation, "evaluate")
        self._seconds[_EVALUATE] = time.monotonic() - started
        if found.examples < 1:
            return Finding("note", "no examples, so the quality of a round's model cannot be measured")
        return _finding(f"{found.examples:,} examples, {_shown(found.metrics)}", unsendable(found.metrics))

    def _ask(self, message_type: str) -> Finding:
        """Send a query with the configuration only; what else its ServerApp sends is not known here."""
        self._begin(3)
        header = MessageHeader(type=message_type, group="1", ttl=_DAY, created_at=time.time())
        config = Record(name="config", kind="config", values={"server-round": 1, **self._training})
        started = time.monotonic()
        try:
            answer = cast("MessageTask", self._task).answer(TaskMessage(header, [config], []))
        except Exception as error:  # noqa: BLE001 - the app may need what only its ServerApp knows
            return Finding("note", f"a message with nothing but 'config' fails: {explain(error)}")
        self._seconds[message_type] = time.monotonic() - started
        size = sum(len(data) for data in answer.data)
        names = ", ".join(record.name for record in answer.records)
        return Finding("ok", f"replies with {names or 'nothing'}, {shown_size(size)} of arrays")


def _finding(text: str, unsent: str) -> Finding:
    if unsent:
        return Finding("note", f"{text}; left out because they cannot be sent: {unsent}")
    return Finding("ok", text)


def _shown(metrics: Mapping[str, float]) -> str:
    found = sendable(metrics)[0]
    return ", ".join(f"{name} {value:.4g}" for name, value in found.items()) or "no metrics"
