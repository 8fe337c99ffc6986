"""Process a batch of messages from SQS one by one; only those that fail are delivered again."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from cloud_functions.monitoring import Log
from fedgrass.federation.errors import NotYet

# Ten tries take 36 minutes: most outages, and averages that other workers make, have ended by then.
_FIRST_RETRY_SECONDS = 5
_LONGEST_RETRY_SECONDS = 900

Ready = TypeVar("Ready")  # what may continue after a message: a run, or one round of it
Argument = TypeVar("Argument")
Result = TypeVar("Result")


def each_record(  # noqa: PLR0913 - the steps of a batch, of which most callers have two
    event: dict[str, Any],
    log: Log,
    take: Callable[[str], Ready | None],
    advance: Callable[[Ready], None] | None = None,
    postpone: Callable[[Mapping[str, Any], int], None] | None = None,
    *,
    together: Callable[[Sequence[str]], Mapping[int, Ready | None]] | None = None,
) -> dict[str, Any]:
    """Process each record of a batch; return the response to Lambda that names the failed ones.

    A failed message is delivered again, with exponential back-off, until its last try puts it into the
    dead-letter queue. The other messages of the batch are not repeated. If advancing a run fails, the last of
    the messages that named it is delivered again.

    Args:
        event: the event with the records.
        log: the log.
        take: processes the body of a record; returns what may continue because of it, if anything.
        advance: advances that; called once for each, after all messages were processed.
        postpone: makes a record visible again after some seconds; without it, the queue's visibility time-out
            applies.
        together: processes those of a batch's bodies that it can at once, and returns by their position what
            may continue. If it fails, all of them are processed one by one, as if delivered again.
    """
    batch = _Batch(log, postpone)
    ready: dict[Ready, dict[str, Any]] = {}
    records = event["Records"]
    done = batch.attempt_together(together, records) if together and len(records) > 1 else {}
    for position, record in enumerate(records):
        affected = done[position] if position in done else batch.attempt(record, take, record["body"])
        if affected:
            ready[affected] = record
    for affected, record in ready.items():
        if advance:
            batch.attempt(record, advance, affected)
    return {"batchItemFailures": [{"itemIdentifier": message} for message in batch.failed]}


class _Batch:
    """The failed messages of a batch."""

    def __init__(self, log: Log, postpone: Callable[[Mapping[str, Any], int], None] | None) -> None:
        self.failed: dict[str, None] = {}  # in order, without duplicates
        self._log = log
        self._postpone = postpone

    def attempt_together(
        self, do: Callable[[Sequence[str]], Mapping[int, Result | None]], records: Sequence[Mapping[str, Any]]
    ) -> Mapping[int, Result | None]:
        """Call ``do`` for the bodies of several records; return its results, or none if it failed."""
        try:
            with self._log.about():
                return do([record["body"] for record in records])
        except Exception as error:  # noqa: BLE001 - each message is processed by itself then
            self._log(f"messages are processed one by one: {type(error).__name__}: {error}", "WARNING")
            return {}

    def attempt(
        self, record: dict[str, Any], do: Callable[[Argument], Result | None], argument: Argument
    ) -> Result | None:
        """Call ``do`` for a record; return its result, or None if it failed."""
        try:
            # Its end writes the metrics that were recorded: Lambda may freeze the function afterwards.
            with self._log.about():
                return do(argument)
        except NotYet as error:
            self._fail(record)
            self._log(f"retried later: {error}", "WARNING")
        except Exception as error:  # noqa: BLE001 - any error must affect only its own message
            self._fail(record)
            reason = f"{type(error).__name__}: {error}; the message {record['body'][:300]!r} is retried"
            self._log(f"failed: {reason}", "ERROR")
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
        except Exception as error:  # noqa: BLE001 - SQS delivers it again anyway, after the visibility time-out
            self._log(
                f"message {record['messageId']} is retried late: {type(error).__name__}: {error}", "WARNING"
            )
