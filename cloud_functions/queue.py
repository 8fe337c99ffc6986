"""How a function takes a batch from SQS: each message by itself, and only the failed ones come back."""

from collections.abc import Callable
from typing import Any

from cloud_functions.log import Log
from fedgrass.federation.errors import NotYet


def each_record(
    event: dict[str, Any],
    log: Log,
    take: Callable[[str], str | None],
    drive: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Give the body of each record to ``take``; return Lambda's answer that names the failed ones.

    A failed message comes back after the queue's visibility time-out, and goes to the dead-letter queue
    after its last try. Whatever fails, the other messages of the batch are not repeated for it.

    A message may name a run that can go on because of it: that is given to ``drive`` once all messages were
    taken, once for all that name it. If that fails the last of them comes back, so that somebody drives it.
    """
    batch = _Batch(log)
    ready: dict[str, dict[str, Any]] = {}
    for record in event["Records"]:
        if run := batch.attempt(record, take, record["body"]):
            ready[run] = record
    for run, record in ready.items():
        if drive:
            batch.attempt(record, drive, run)
    return {"batchItemFailures": [{"itemIdentifier": message} for message in batch.failed]}


class _Batch:
    """What has failed of a batch."""

    def __init__(self, log: Log) -> None:
        self.failed: dict[str, None] = {}  # in their order, each once
        self._log = log

    def attempt(
        self, record: dict[str, Any], do: Callable[[str], str | None] | Callable[[str], None], argument: str
    ) -> str | None:
        """Do something for a record; return what that says, None if it failed."""
        try:
            return do(argument)
        except NotYet as error:
            self._log(f"again later: {error}", "WARNING")
        except Exception as error:  # noqa: BLE001  # whatever it is, it must cost its own message only
            said = f"{type(error).__name__}: {error}; the message {record['body'][:300]!r} comes back"
            self._log(f"failed: {said}", "ERROR")
        self.failed[record["messageId"]] = None
        return None
