"""Streams of Stream Manager as this version of the trainer needs them, whatever a former version made.

A stream is right by its definition and not by its name. One that differs is updated in place, so that what it
holds is exported all the same. What cannot be updated is replaced, once nothing in it waits for its export.
"""

import logging
from collections.abc import Iterable
from typing import Any

from stream_manager import MessageStreamDefinition, Persistence, StreamManagerClient, StreamManagerException

from components.trainer.errors import UploadFailed

log = logging.getLogger(__name__)


def ensure_streams(client: StreamManagerClient, wanted: Iterable[MessageStreamDefinition]) -> None:
    """Create, update or replace streams, in the order given.

    Raises:
        UploadFailed: one has another definition and cannot be changed yet; the text names it and the way out.
    """
    existing = set(client.list_streams())
    for definition in wanted:
        if definition.name not in existing:
            client.create_message_stream(definition)
            continue
        found = client.describe_message_stream(definition.name)
        if differences := _differences(found.definition, definition):
            log.warning("the stream %s is of a former version (%s)", definition.name, ", ".join(differences))
            _change(client, found, definition, differences)


def _differences(found: Any, wanted: MessageStreamDefinition) -> list[str]:
    """Return what of a stream's definition has to change. Its sizes may be the operator's own."""
    pairs = {
        "export": (_export(found), _export(wanted)),
        "strategyOnFull": (found.strategy_on_full, wanted.strategy_on_full),
        "persistence": (found.persistence or Persistence.File, wanted.persistence),
        "timeToLiveMillis": (found.time_to_live_millis, wanted.time_to_live_millis),
        "flushOnWrite": (bool(found.flush_on_write), bool(wanted.flush_on_write)),
    }
    return [name for name, (here, there) in pairs.items() if here != there]


def _export(definition: Any) -> list[tuple[object, ...]]:
    """Return what decides where a stream is exported to, and where its statuses go."""
    export = definition.export_definition
    if export is None:
        return []
    others = (export.http, export.iot_analytics, export.kinesis, export.iot_sitewise)
    executors: list[tuple[object, ...]] = [(other.identifier,) for kind in others for other in kind or []]
    for each in export.s3_task_executor or []:
        status = each.status_config
        told = (status.status_stream_name, status.status_level) if status else (None, None)
        executors.append((each.identifier, bool(each.disabled), *told))
    return executors


def _change(
    client: StreamManagerClient, found: Any, wanted: MessageStreamDefinition, differences: list[str]
) -> None:
    wanted.max_size = max(wanted.max_size, found.definition.max_size)  # smaller than its contents is refused
    wanted.stream_segment_size = found.definition.stream_segment_size or wanted.stream_segment_size
    try:
        client.update_message_stream(wanted)
    except StreamManagerException as error:
        if _waits_for_export(found):
            message = (
                f"the stream {wanted.name} of Stream Manager is of a former version"
                f" ({', '.join(differences)}) and cannot be updated: {error}. It is replaced once what it"
                " holds is exported; delete it if that will never be"
            )
            raise UploadFailed(message, transient=True) from error
        client.delete_message_stream(wanted.name)
        client.create_message_stream(wanted)
        log.warning("the stream %s was replaced: %s", wanted.name, error)
    else:
        log.info("the stream %s was updated", wanted.name)


def _waits_for_export(found: Any) -> bool:
    """Return whether a stream holds what is not exported yet."""
    newest = found.storage_status.newest_sequence_number
    if newest is None or newest < 0 or found.definition.export_definition is None:
        return False
    statuses = found.export_statuses or []
    return not statuses or any((status.last_exported_sequence_number or 0) < newest for status in statuses)
