"""A Flower app as a task, in both ways: in fedgrass's own rounds, and for a ServerApp that drives the fleet.

An app cannot be interrupted and does not report how far it is: it works until it returns. At the deadline of
its work the trainer ends the worker process, and what the app has done by then is lost.
"""

import hashlib
import logging
import random
import sys
import traceback
from pathlib import Path
from typing import ClassVar, NamedTuple, cast

import numpy as np

from components.runtime.component_errors import ConfigurationError, WorkFailed
from components.trainer.flower import app_replies, app_requests
from components.trainer.flower.app_configuration import FILE, read_app_configuration
from components.trainer.flower.app_content import GET_PARAMETERS, Content, LegacyReply, Surroundings
from components.trainer.flower.app_options import NODE, Option, node_config_of
from components.trainer.flower.app_state import read_state, same_state, write_state
from components.trainer.flower.flower_client import FlowerClient, legacy_reply, legacy_request
from components.trainer.flower.serialised_arrays import NUMPY, array_in
from components.trainer.tasks.task import (
    Answer,
    Evaluation,
    Fit,
    Report,
    RoundPlace,
    Settings,
    Stop,
    TaskMessage,
)
from components.trainer.tasks.task_modules import folder_at, folder_of
from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.messages.message_types import MessageHeader
from fedgrass.federation.task_messages.node_ids import node_id, run_id
from fedgrass.federation.weights import Arrays

_TTL = 43_200.0  # seconds: Flower's default, in fedgrass's own rounds
_TRAIN, _EVALUATE = "train", "evaluate"
_ALONE = RoundPlace("", 1, "", Path(), Path())  # outside of a round, such as in `fedgrass task check`
log = logging.getLogger(__name__)


class _Keys(NamedTuple):
    """Names in the messages to the app and in its replies; Flower's strategies have the same settings."""

    arrays: str
    config: str
    metrics: str
    examples: str


class FlowerTask:
    """A Flower app. The module that ``fedgrass flower add`` generates derives from it and sets ``folder``.

    Args:
        arrays_key: key of the model's arrays in the messages to the app and in its replies.
        config_key: key of the configuration in the messages to the app.
        metrics_key: key of the metrics in its replies.
        examples_key: name of the number of examples among the metrics.
        options: ``node-<name>`` becomes ``<name>`` of ``context.node_config``.

    Raises:
        ConfigurationError: the app or an option cannot be used; the text gives the reason.
    """

    folder: ClassVar[Path]  # of the app's files

    def __init__(
        self,
        *,
        arrays_key: str = "arrays",
        config_key: str = "config",
        metrics_key: str = "metrics",
        examples_key: str = "num-examples",
        **options: Option,
    ) -> None:
        self._keys = _Keys(arrays_key, config_key, metrics_key, examples_key)
        self._node_config = node_config_of(options, [f"{key}_key" for key in _Keys._fields])
        folder = folder_of(type(self).__module__)
        if folder is None or Path(folder.path) != self.folder:
            folder = folder_at(str(self.folder))
        folder.note(str(self.folder / FILE))  # a change of it is one of the app, as that of a module
        configuration = read_app_configuration(self.folder)
        self._config = configuration.config
        self._client = FlowerClient(folder, configuration.clientapp)
        self._models = app_requests.SerialisedModels()
        self._place, self._training = _ALONE, _ALONE.training
        self._state = Content()  # of the app, after its latest call
        self._kept = self._state  # what the files have of it
        self._examples = 0

    def begin_round(self, place: RoundPlace) -> None:
        """Read the app's state of the run, which the following calls continue."""
        self._place, self._training = place, place.training
        self._models.clear()
        place.state_after.unlink(missing_ok=True)  # left by an attempt that did not end
        self._state = self._kept = read_state(place.state)

    def initial_weights(self, seed: int) -> Arrays:
        """Return the parameters with which an app with ``get_parameters`` starts.

        Raises:
            ConfigurationError: the app has no such method.
        """
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002 - the generator that the apps use
        if torch := sys.modules.get("torch"):
            torch.manual_seed(seed)
        reply = LegacyReply(is_missing=True)
        if self._client.is_legacy:
            reply = self._legacy(
                GET_PARAMETERS, self._call(GET_PARAMETERS, legacy_request(GET_PARAMETERS, (), {}))
            )
        if reply.is_missing or not reply.tensors:
            message = (
                "the ClientApp does not bring an initial model: let `fedgrass flower initial-model` ask its"
                " ServerApp, or start the run with --model FILE"
            )
            raise ConfigurationError(message)
        return {str(number): array_in(data, str(number)) for number, data in enumerate(reply.tensors)}

    def evaluate(self, weights: Arrays) -> Evaluation:
        """Let the app evaluate a model; without a function for it, no examples are evaluated."""
        if not self._client.has(_EVALUATE):
            return Evaluation(0)
        reply = self._call(_EVALUATE, self._request(_EVALUATE, weights))
        if self._client.is_legacy:
            answered = self._legacy(_EVALUATE, reply)
            if answered.is_missing:
                return Evaluation(0)
            metrics = {**answered.metrics, self._keys.examples: answered.examples}
        else:
            metrics = app_replies.metrics_of_reply(reply.records, self._keys.metrics)
        examples = app_replies.examples_of_reply(metrics, self._keys.examples, _EVALUATE, smallest=0)
        return Evaluation(examples, self._numbers(metrics) if examples else {})

    def fit(self, weights: Arrays, settings: Settings, report: Report, stop: Stop) -> Fit:  # noqa: ARG002 - an app takes neither
        """Let the app train a model."""
        self._training = settings
        if not self._client.has(_TRAIN):
            message = "the ClientApp has no train function: only `fedgrass flower run` can work with it"
            raise WorkFailed(message)
        reply = self._call(_TRAIN, self._request(_TRAIN, weights))
        names = list(app_requests.in_app_order(weights))
        if self._client.is_legacy:
            answered = self._legacy(_TRAIN, reply)
            arrays = _named(names, answered)
            metrics = {**answered.metrics, self._keys.examples: answered.examples}
        else:
            found = app_replies.arrays_of_reply(reply.records, reply.data, self._keys.arrays)
            arrays = {name: (entry.stype, data) for name, (entry, data) in found.items()}
            metrics = app_replies.metrics_of_reply(reply.records, self._keys.metrics)
        self._examples = app_replies.examples_of_reply(metrics, self._keys.examples, _TRAIN, smallest=1)
        update = app_replies.update_of(arrays, weights)
        self._models.keep(update, {name: arrays[name][1] for name in names})
        return Fit(update, self._examples, self._numbers(metrics))

    def examples(self) -> int:
        """Return the number of examples of the latest training; 0 before the first one."""
        return self._examples

    def answer(self, message: TaskMessage) -> Answer:
        """Let the app answer a message of its ServerApp.

        Raises:
            WorkFailed: an app without a ``client_fn`` is asked for its parameters, or fails in other ways.
        """
        header = message.header
        if header.type == GET_PARAMETERS and not self._client.is_legacy:
            reason = "the ClientApp has no get_parameters, which only an app with a client_fn can have"
            raise WorkFailed(reason)
        reply = self._call(header.type, Content(message.records, message.data), header)
        examples, metrics = self._of_reply(header.type, reply)
        return Answer(reply.records, reply.data, examples, metrics)

    def _call(self, message_type: str, content: Content, header: MessageHeader | None = None) -> Content:
        """Call the app, and keep its state."""
        place, is_own = self._place, header is None
        header = header or MessageHeader(type=message_type, group=str(place.number), ttl=_TTL, created_at=0.0)
        around = Surroundings(
            run=run_id(place.run),
            node=node_id(place.device),
            message=hashlib.sha256(f"{place.run}/{place.number}/{place.device}".encode()).hexdigest(),
            node_config=self._node_config,
            run_config={**self._config, **self._training},
        )
        try:
            reply, state = self._client.call(around, header, content, self._state)
        except KeyError as error:
            if explained := self._explained(error, content, is_own=is_own):
                raise WorkFailed(explained) from error
            raise
        if place is not _ALONE:
            self._keep(state, place.state_after)
        self._state = state
        return reply

    def _keep(self, state: Content, file: Path) -> None:
        """Write the app's state to a file, if it has changed."""
        try:
            if not same_state(state, self._kept):
                write_state(file, state)
        except (OSError, UpdateRefused) as error:
            message = f"the app's context.state cannot be kept in {file}: {error}"
            raise WorkFailed(message) from error
        self._kept = state

    def _explained(self, error: KeyError, content: Content, *, is_own: bool) -> str:
        """Return what to do about a name that the app did not find; empty if it is not one of a setting.

        Args:
            error: raised by the app.
            content: of the message.
            is_own: the message is one of fedgrass's own rounds, in which no ServerApp adds settings.
        """
        name = error.args[0] if error.args else None
        sent = [record.values for record in content.records if record.kind == "config"]
        known = set().union(self._config, self._training, self._node_config, *sent)
        if not isinstance(name, str) or name in known:
            return ""
        frames = [f for f in traceback.extract_tb(error.__traceback__) if self._is_own_file(f.filename)]
        where = ""
        if frames:
            where = f" ({Path(frames[-1].filename).relative_to(self.folder)}:{frames[-1].lineno})"
        training = (
            "if its ServerApp sends it as a setting, give it in the run's `training`; " if is_own else ""
        )
        return (
            f"the app did not find {name!r}{where}: {training}if it is a setting of this device, give it as"
            f" the task's option {NODE}{name}"
        )

    def _is_own_file(self, name: str) -> bool:
        return Path(name).is_relative_to(self.folder)

    def _request(self, message_type: str, weights: Arrays) -> Content:
        """Return the content of a message of one of fedgrass's own rounds."""
        is_legacy = self._client.is_legacy
        if is_legacy:
            app_requests.check_list(weights)
        data = self._models.of(weights)
        config = app_requests.app_config(self._training, self._place.number, is_legacy=is_legacy)
        if is_legacy:
            return legacy_request(message_type, list(data.values()), config)
        arrays = (self._keys.arrays, app_requests.entries_of(weights, data))
        return Content(app_requests.request_records(arrays, (self._keys.config, config)), list(data.values()))

    def _legacy(self, message_type: str, reply: Content) -> LegacyReply:
        """Return the reply of a client_fn. Raises WorkFailed if its status is a failure."""
        found = legacy_reply(message_type, reply)
        if found.problem and not (found.is_missing and message_type != _TRAIN):
            raise WorkFailed(found.problem)
        return found

    def _of_reply(self, message_type: str, reply: Content) -> tuple[int, dict[str, float]]:
        """Return the examples and metrics of a reply to a ServerApp, which judges them itself."""
        kind = message_type.partition(".")[0]
        metrics = app_replies.metrics_of_reply(reply.records, self._keys.metrics)
        if self._client.is_legacy and kind in {_TRAIN, _EVALUATE}:
            try:
                found = legacy_reply(kind, reply)
            except WorkFailed as error:  # a mod has replaced it, as that of secure aggregation does
                log.debug("the reply has no metrics: %s", error)
                found = LegacyReply()
            if found.problem:
                raise WorkFailed(found.problem)
            metrics = {**found.metrics, self._keys.examples: found.examples}
        count = app_replies.single_numbers(metrics).get(self._keys.examples, 0)
        return max(0, int(count)), app_replies.single_numbers(self._numbers(metrics))

    def _numbers(self, metrics: app_replies.Numbers) -> dict[str, float]:
        """Return the metrics without the number of examples. The worker names the others in its report."""
        others = {name: value for name, value in metrics.items() if name != self._keys.examples}
        return cast("dict[str, float]", app_replies.sendable_names(others))


def _named(names: list[str], reply: LegacyReply) -> dict[str, tuple[str, bytes]]:
    if len(reply.tensors) != len(names):
        message = f"the app's fit returned {len(reply.tensors)} arrays, and the model has {len(names)}"
        raise WorkFailed(message)
    return {name: (NUMPY, data) for name, data in zip(names, reply.tensors, strict=True)}
