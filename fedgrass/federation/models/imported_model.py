"""What is known of a model that was not trained here, but imported as the initial model of runs."""

import msgspec
from msgspec import Struct

from fedgrass.federation.errors import SettingsError
from fedgrass.federation.messages.message_fields import Count, Milliseconds, RunName, Sha256, TaskName

LARGEST_IMPORT_RECORD = 16 * 1024  # bytes


class ImportedModel(Struct, frozen=True, kw_only=True):
    """The record of the imported model ``<name>/0``.

    Attributes:
        name: under which it is stored, as the model 0 of a run.
        task: whose model it is.
        sha256: of its file.
        bytes: size of its file.
        imported_at: milliseconds since the epoch, by the clock of the operator's machine.
        by: ARN of the caller.
        source: name of the file that was imported.
        checked: what of the task it was compared with; empty: the task could not be loaded.
        frozen_sha256: fingerprint of the frozen arrays that it belongs to; empty: none.
    """

    name: RunName
    task: TaskName
    sha256: Sha256
    bytes: Count
    imported_at: Milliseconds
    by: str = ""
    source: str = ""
    checked: str = ""
    frozen_sha256: str = ""


_DECODER = msgspec.json.Decoder(ImportedModel)


def decode_import(data: bytes, key: str) -> ImportedModel:
    """Return the record of an imported model. Raises SettingsError, which names ``key``, if it is damaged."""
    try:
        return _DECODER.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        message = f"object {key} is damaged ({error}): remove it, or restore an earlier version of it"
        raise SettingsError(message) from error
