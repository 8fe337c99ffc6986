"""Calls the ClientApp of a Flower app; the only module of the trainer that imports flwr.

A call gets records as fedgrass sends them (task_messages/message_content.py) and returns such records. They
become Flower's own objects and back without a copy of the arrays' data.
"""

import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from components.runtime.component_errors import ConfigurationError, WorkFailed
from components.trainer.flower.app_content import GET_PARAMETERS, Content, LegacyReply, Surroundings
from components.trainer.flower.app_import import (
    flower_log_level,
    flower_version,
    import_object,
    missing_module,
)
from components.trainer.flower.serialised_arrays import NUMPY
from components.trainer.tasks.task_modules import TaskFolder
from fedgrass.federation.messages.message_types import MessageHeader
from fedgrass.federation.task_messages.message_content import ArrayEntry, Record, Scalar

OLDEST = "1.40"  # version of flwr
_OLDEST_PYTHON = (3, 11)  # that flwr runs on
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"  # before flwr is imported: it would report its use otherwise


def _too_old(error: Exception) -> ConfigurationError:
    if sys.version_info < _OLDEST_PYTHON:
        version = ".".join(map(str, sys.version_info[:2]))
        return ConfigurationError(
            f"this is Python {version}, and Flower apps need 3.11 or later: configure `python` for the"
            " components"
        )
    version = flower_version()
    if not version:
        return ConfigurationError(
            "a Flower app needs the package flwr, which is not installed here: `fedgrass flower add` brings"
            f" it to devices, and `pip install 'flwr>={OLDEST}'` installs it on this machine"
        )
    return ConfigurationError(
        f"flwr {version} is installed, and fedgrass needs {OLDEST} or a later one with its interface: {error}"
    )


try:
    from flwr.app import (
        Array,
        ArrayRecord,
        ConfigRecord,
        Context,
        Message,
        MessageType,
        MetricRecord,
        RecordDict,
    )
    from flwr.clientapp import ClientApp
    from flwr.compat.common import recorddict_compat as compat
    from flwr.compat.common.typing import (
        Code,
        EvaluateIns,
        FitIns,
        GetParametersIns,
        Parameters,
    )
    from flwr.supercore.task_identity import TaskIdentity
except ImportError as error:
    raise _too_old(error) from error

_SERVER = 1  # node id of Flower's server
_KINDS = {"arrays": ArrayRecord, "metrics": MetricRecord, "config": ConfigRecord}
# To Python's own types. A bool is an int too, so it comes first.
_PLAIN: Mapping[type, Callable[[Any], Scalar]] = {
    bool: bool,
    int: int,
    float: float,
    str: str.__str__,
    bytes: bytes,
}
log = logging.getLogger(__name__)


class FlowerClient:
    """A ClientApp.

    Args:
        folder: of the app's files.
        reference: where the ClientApp is, as ``package.module:attribute``.

    Raises:
        ConfigurationError: it cannot be imported, or is not a ClientApp. Other exceptions of the app's
            code, as it is imported, are not caught.
    """

    def __init__(self, folder: TaskFolder, reference: str) -> None:
        _quieten()
        self._folder = folder
        self._app = _load(folder, reference)
        try:
            self.is_legacy: bool = self._app._call is not None  # noqa: SLF001 - Flower offers no other way
            self._functions: Mapping[str, object] = self._app._registered_funcs  # noqa: SLF001 - likewise
        except AttributeError as error:
            raise _too_old(error) from error

    def has(self, message_type: str) -> bool:
        """Return whether the app has a function for messages of a type; a legacy app may turn out not to."""
        name = message_type if "." in message_type else f"{message_type}.default"
        return self.is_legacy or name in self._functions

    def call(
        self, around: Surroundings, header: MessageHeader, content: Content, state: Content
    ) -> tuple[Content, Content]:
        """Call the app with a message; mods and lifespan run around it.

        Args:
            around: the context of the call.
            header: of the message.
            content: of the message.
            state: of the app: its ``context.state``.

        Returns:
            The content of the reply, and the new state.

        Raises:
            WorkFailed: the app replied with an error, or with something else than a Message. All exceptions
                that its code raises are passed on.
        """
        context = Context(
            run_id=around.run,
            node_id=around.node,
            node_config=dict(around.node_config),
            state=to_record_dict(state),
            run_config=dict(around.run_config),
        )
        try:
            reply = self._app(message=_message(around, header, to_record_dict(content)), context=context)
        except ModuleNotFoundError as error:  # of an import statement in a function
            raise WorkFailed(missing_module(self._folder, error)) from error
        if not isinstance(reply, Message):
            message = (
                f"the app's function for {header.type!r} returned a {type(reply).__name__}, not a Message"
            )
            raise WorkFailed(message)
        if reply.has_error():
            message = (
                f"the app replied with the error {reply.error.code}: {reply.error.reason or 'no reason'}"
            )
            raise WorkFailed(message)
        return content_of(reply.content), content_of(context.state)


def _quieten() -> None:
    """Let Flower log as every library does: warnings, to the trainer's own log."""
    logger = logging.getLogger("flwr")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)  # it would write all lines a second time, in colours
    logger.setLevel(flower_log_level(logging.WARNING))


def _load(folder: TaskFolder, reference: str) -> Any:
    """Import a ClientApp. Raises ConfigurationError, as ``FlowerClient`` does."""
    found = import_object(folder, reference)
    if not isinstance(found, ClientApp):
        kind = type(found).__name__
        message = f"the clientapp {reference!r} of the app's pyproject.toml is a {kind}, not a ClientApp"
        raise ConfigurationError(message)
    return found


def _message(around: Surroundings, header: MessageHeader, content: Any) -> Any:
    """Return a message from Flower's server to this device, dated by the header or, without a date, now."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = around.run, _SERVER, 1
    message = Message(
        content, dst_node_id=around.node, message_type=header.type, ttl=header.ttl, group_id=header.group
    )
    TaskIdentity.node_id = around.node
    message.metadata.__dict__["_message_id"] = around.message  # as Flower sets it when a message arrives
    if header.created_at:
        message.metadata.created_at = header.created_at
    return message


def to_record_dict(content: Content) -> Any:
    """Return records as a RecordDict whose arrays refer to the same data."""
    data = iter(content.data)
    records = RecordDict()
    for record in content.records:
        if record.kind == "arrays":
            records[record.name] = ArrayRecord(
                {
                    entry.name: Array(entry.dtype, tuple(entry.shape), entry.stype, next(data))
                    for entry in record.arrays
                }
            )
        else:
            # The app may change a list in place, which must not change what the content was before.
            values = {key: list(v) if isinstance(v, list) else v for key, v in record.values.items()}
            records[record.name] = _KINDS[record.kind](values)
    return records


def content_of(records: Any) -> Content:
    """Return the records of a RecordDict, and the data of their arrays."""
    found: list[Record] = []
    data: list[bytes] = []
    for name, record in records.items():
        if isinstance(record, ArrayRecord):
            entries = tuple(
                ArrayEntry(
                    name=key,
                    dtype=array.dtype,
                    shape=tuple(array.shape),
                    stype=array.stype,
                    bytes=memoryview(array.data).nbytes,
                )
                for key, array in record.items()
            )
            found.append(Record(name=name, kind="arrays", arrays=entries))
            data += [bytes(array.data) for array in record.values()]  # those of bytes are not copied
        else:
            values = {key: _plain(value) for key, value in record.items()}
            is_metrics = isinstance(record, MetricRecord)
            found.append(Record(name=name, kind="metrics" if is_metrics else "config", values=values))
    return Content(found, data)


def _plain(value: Any) -> Any:
    """Return a value of a record in Python's own types: a float64 of numpy is a float."""
    if isinstance(value, list):
        return [_converter(value[0])(member) for member in value]
    return _converter(value)(value)


def _converter(value: object) -> Callable[[Any], Scalar]:
    return next(convert for kind, convert in _PLAIN.items() if isinstance(value, kind))


def legacy_request(message_type: str, tensors: Sequence[bytes], config: Mapping[str, object]) -> Content:
    """Return the content of a message to an app with a ``client_fn``.

    Args:
        message_type: ``train``, ``evaluate`` or ``get_parameters``.
        tensors: the model's arrays as ``numpy.save`` writes them, in the app's order.
        config: for the client's method.
    """
    if message_type == GET_PARAMETERS:
        return content_of(compat.getparametersins_to_recorddict(GetParametersIns(dict(config))))
    parameters = Parameters(tensors=list(tensors), tensor_type=NUMPY)
    if message_type == MessageType.TRAIN:
        return content_of(compat.fitins_to_recorddict(FitIns(parameters, dict(config)), keep_input=True))
    return content_of(
        compat.evaluateins_to_recorddict(EvaluateIns(parameters, dict(config)), keep_input=True)
    )


def legacy_reply(message_type: str, content: Content) -> LegacyReply:
    """Return the reply in the content of a message from an app with a ``client_fn``.

    Args:
        message_type: ``train``, ``evaluate`` or ``get_parameters``.
        content: of the reply.

    Raises:
        WorkFailed: the content is not that of such a reply; a mod may have changed it.
    """
    records = to_record_dict(content)
    try:
        if message_type == GET_PARAMETERS:
            found = compat.recorddict_to_getparametersres(records, keep_input=True)
            return LegacyReply(found.parameters.tensors, **_status(found.status))
        if message_type == MessageType.TRAIN:
            found = compat.recorddict_to_fitres(records, keep_input=True)
            return LegacyReply(
                found.parameters.tensors, found.num_examples, dict(found.metrics), **_status(found.status)
            )
        found = compat.recorddict_to_evaluateres(records)
        metrics = {"loss": found.loss, **found.metrics}
        return LegacyReply((), found.num_examples, metrics, **_status(found.status))
    except (KeyError, TypeError, ValueError) as error:
        message = f"the reply to {message_type!r} is not one of a client_fn: {type(error).__name__}: {error}"
        raise WorkFailed(message) from error


def _status(status: Any) -> dict[str, Any]:
    if status.code == Code.OK:
        return {}
    return {
        "problem": f"the client replied with the status {status.code.name}: {status.message}",
        "is_missing": status.code.name.endswith("_NOT_IMPLEMENTED"),
    }
