"""What the operator's side uses of Flower: the only module of it that imports flwr.

It turns records of Flower into those that travel, and back, without a conversion of arrays: ``Array.data`` is
sent as it is. The other modules of this package import Flower's classes from here.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from typing import Any

from fedgrass.console.flower.flower_project import check_flwr
from fedgrass.console.options import Value
from fedgrass.console.task_messages.content_files import MessagePart
from fedgrass.federation.errors import SettingsError, UpdateRefused
from fedgrass.federation.task_messages import node_ids
from fedgrass.federation.task_messages.message_content import ArrayEntry, Record
from fedgrass.sources import install_extra

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"  # before flwr is imported
check_flwr()
try:
    from flwr.app import (
        Array,
        ArrayRecord,
        ConfigRecord,
        Context,
        Error,
        Message,
        Metadata,
        MetricRecord,
        RecordDict,
    )
    from flwr.clientapp import ClientApp
    from flwr.common import parameters_to_ndarrays
    from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
    from flwr.proto.node_pb2 import NodeInfo
    from flwr.server import SimpleClientManager
    from flwr.serverapp import Grid, ServerApp
    from flwr.serverapp.strategy import Result, Strategy
    from flwr.supercore.logger import FLOWER_LOGGER
    from flwr.supercore.run import Run, RunNotRunningException
    from flwr.supercore.task_identity import TaskIdentity
except ImportError as error:
    _message = (
        f"flwr {metadata.version('flwr')} is installed, and lacks what fedgrass uses of it ({error}):"
        f" fedgrass works with 1.40 and later: {install_extra('flower')}"
    )
    raise SettingsError(_message) from error

__all__ = [
    "FLOWER_LOGGER",
    "SUPERLINK_NODE_ID",
    "ArrayRecord",
    "ClientApp",
    "ConfigRecord",
    "Context",
    "Error",
    "ErrorCode",
    "Grid",
    "Message",
    "Metadata",
    "MetricRecord",
    "NodeInfo",
    "RecordDict",
    "Result",
    "Run",
    "RunNotRunningException",
    "ServerApp",
    "SimpleClientManager",
    "Strategy",
    "TaskIdentity",
    "from_records",
    "identify",
    "parameters_to_ndarrays",
    "server_context",
    "to_parts",
    "to_record",
]

_KINDS: Mapping[str, Any] = {"metrics": MetricRecord, "config": ConfigRecord}


def server_context(run: str, config: Mapping[str, Value]) -> Context:
    """Return the context of a ServerApp's run; ``config`` is its ``context.run_config``."""
    return Context(
        run_id=node_ids.run_id(run),
        node_id=SUPERLINK_NODE_ID,
        node_config={},
        state=RecordDict(),
        run_config=dict(config),
    )


def identify(run: str) -> None:
    """Make this process the ServerApp's of a run: Flower writes these ids into every message."""
    TaskIdentity.run_id = node_ids.run_id(run)
    TaskIdentity.node_id = SUPERLINK_NODE_ID
    TaskIdentity.task_id = 1


def to_parts(content: RecordDict) -> list[MessagePart]:
    """Return the records of a message's content, with the data of their arrays, which are not copied."""
    return [to_record(name, record) for name, record in content.items()]


def to_record(name: str, record: Any) -> MessagePart:
    """Return one record of Flower under a name, with the data of its arrays.

    Raises:
        UpdateRefused: it is not a record of Flower.
    """
    if isinstance(record, ArrayRecord):
        entries = tuple(
            ArrayEntry(
                name=key,
                dtype=array.dtype,
                shape=tuple(map(int, array.shape)),
                stype=array.stype,
                bytes=len(array.data),
            )
            for key, array in record.items()
        )
        return MessagePart(
            Record(name=name, kind="arrays", arrays=entries), [array.data for array in record.values()]
        )
    for kind, type_ in _KINDS.items():
        if isinstance(record, type_):
            values = {key: _plain(value) for key, value in record.items()}
            return MessagePart(Record(name=name, kind=kind, values=values))  # type: ignore[arg-type]
    message = f"the record {name!r} is a {type(record).__name__}, which is not a record of Flower"
    raise UpdateRefused(message)


def _plain(value: Any) -> Any:
    """Return a value of a record without numpy's types, which are subclasses of Python's."""
    if isinstance(value, list | tuple):
        return [_plain(member) for member in value]
    plain: tuple[Any, ...] = (bool, int, float, str, bytes)
    return next((type_(value) for type_ in plain if isinstance(value, type_)), value)


def from_records(records: Sequence[Record], data: Sequence[bytes]) -> RecordDict:
    """Return records that have travelled as Flower's; the arrays keep ``data`` itself.

    Raises:
        UpdateRefused: a record has what Flower's does not take.
    """
    source = iter(data)
    content = RecordDict()
    try:
        for record in records:
            content[record.name] = _record(record, source)
    except (TypeError, ValueError) as error:
        message = f"it is not a content of Flower: {error}"
        raise UpdateRefused(message) from error
    return content


def _record(record: Record, data: Iterator[bytes]) -> Any:
    if record.kind == "arrays":
        return ArrayRecord(
            {
                entry.name: Array(dtype=entry.dtype, shape=entry.shape, stype=entry.stype, data=next(data))
                for entry in record.arrays
            }
        )
    return _KINDS[record.kind](record.values)
