"""How a function takes a batch from SQS: each message by itself, and only the failed ones come back."""

from collections.abc import Callable, Mapping
from typing import Any

from cloud_functions.monitoring import Log
from fedgrass.federation.errors import NotYet

# Ten tries take 36 minutes: an average that others make, or an outage of a service, has mostly ended by then.
_FIRST_RETRY_SECONDS = 5
_LONGEST_RETRY_SECONDS = 900


def each_record(
    event: dict[str, Any],
    log: Log,
    take: Callable[[str], str | None],
    drive: Callable[[str], None] | None = None,
    postpone: Callable[[Mapping[str, Any], int], None] | None = None,
) -> dict[str, Any]:
    """Give the body of each record to ``take``; return Lambda's answer that names the failed ones.

    A failed message comes back after some seconds, each time twice as many, if ``postpone`` is given a record
    and the seconds; otherwise after the queue's visibility time-out. After its last try it goes to the
    dead-letter queue. The other messages of the batch are not repeated for it.

    A message may name a run that can go on because of it: that is given to ``drive`` once all messages were
    taken, once for all that name it. If that fails the last of them comes back, so that somebody drives it.
    """
    batch = _Batch(log, postpone)
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

    def __init__(self, log: Log, postpone: Callable[[Mapping[str, Any], int], None] | None) -> None:
        self.failed: dict[str, None] = {}  # in their order, each once
        self._log = log
        self._postpone = postpone

    def attempt(
        self, record: dict[str, Any], do: Callable[[str], str | None] | Callable[[str], None], argument: str
    ) -> str | None:
        """Do something for a record; return what that says, None if it failed."""
        try:
            return do(argument)
        except NotYet as error:
            self._fail(record)
            self._log(f"again later: {error}", "WARNING")
        except Exception as error:  # noqa: BLE001  # whatever it is, it must cost its own message only
            self._fail(record)
            said = f"{type(error).__name__}: {error}; the message {record['body'][:300]!r} comes back"
            self._log(f"failed: {said}", "ERROR")
        return None

    def _fail(self, record: Mapping[str, Any]) -> None:
        self.failed[record["messageId"]] = None
        if self._postpone is None:
            return
        tries = int(record.get("attributes", {}).get("ApproximateReceiveCount", 1))
        try:
            self._postpone(
                record, min(_FIRST_RETRY_SECONDS * 2 ** min(tries - 1, 10), _LONGEST_RETRY_SECONDS)
            )
        except Exception as error:  # noqa: BLE001  # it comes back all the same, after the whole time-out
            self._log(
                f"message {record['messageId']} comes back late: {type(error).__name__}: {error}", "WARNING"
            )
