"""Keeps an app's ``context.state`` on the device, across rounds and restarts: one file per run.

It is a file of content (task_messages/message_content.py), so that reading it runs no code. The trainer
adopts a new file once the reply that it belongs to has been uploaded.
"""

import logging
from pathlib import Path

from components.runtime.atomic_file import publish_file, unfinished, write_unfinished
from components.trainer.flower.app_content import Content
from fedgrass.federation import weights
from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.task_messages.message_content import (
    RECORDS,
    carried,
    content_arrays,
    decode_records,
    encode_records,
)

log = logging.getLogger(__name__)


def read_state(path: Path) -> Content:
    """Return the state in a file; an empty one if the file is missing, or damaged, which is logged."""
    try:
        return _decoded(path.read_bytes())
    except FileNotFoundError:
        return Content()
    except (OSError, UpdateRefused) as error:
        log.warning("the state of the app in %s is dropped, and it starts without one: %s", path, error)
        return Content()


def write_state(path: Path, state: Content) -> None:
    """Write a state to a file; at any moment the file has the former state or this one.

    Raises:
        UpdateRefused: the state has records that no message carries, such as one without a name.
        OSError: the file cannot be written.
    """
    arrays = content_arrays(state.records, state.data)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_unfinished(path, lambda file: weights.write(arrays, file))
    publish_file(unfinished(path), path)


def same_state(one: Content, other: Content) -> bool:
    """Return whether two states are equal; fast where they share the data of arrays."""
    return encode_records(one.records) == encode_records(other.records) and list(one.data) == list(other.data)


def _decoded(file: bytes) -> Content:
    weights.check_data(file)
    found = weights.decode(file)
    if RECORDS not in found:
        message = f"it has no array {RECORDS!r}"
        raise UpdateRefused(message)
    records = decode_records(found[RECORDS].tobytes())
    entries = carried(records)
    data = [found[str(number)].tobytes() for number in range(len(entries)) if str(number) in found]
    if [len(each) for each in data] != [entry.bytes for entry in entries]:
        message = "its arrays are not those of its records"
        raise UpdateRefused(message)
    return Content(records, data)
