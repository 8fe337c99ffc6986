"""Keeps an app's ``context.state`` on the device, across rounds and restarts: one file per run.

It is a file of content (task_messages/message_content.py), so that reading it runs no code. The trainer
adopts a new file once the reply that it belongs to has been uploaded.
"""

import logging
from io import BytesIO
from pathlib import Path

from components.runtime.atomic_file import publish_file, unfinished, write_unfinished
from components.trainer.flower.app_content import Content
from fedgrass.federation import weights
from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.task_messages.content_reader import read_content
from fedgrass.federation.task_messages.message_content import content_arrays, encode_records

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
    records, data = read_content(BytesIO(file).read, len(file))
    return Content(records, data)
