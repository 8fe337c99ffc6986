"""How a function takes a batch from SQS: each message by itself, and only the failed ones come back."""

from collections.abc import Callable
from typing import Any

from cloud_functions.log import Log
from fedgrass.federation.errors import NotYet


def each_record(event: dict[str, Any], log: Log, take: Callable[[str], None]) -> dict[str, Any]:
    """Give the body of each record to ``take``; return Lambda's answer that names the failed ones.

    A failed message comes back after the queue's visibility time-out, and goes to the dead-letter queue
    after its last try. Whatever fails, the other messages of the batch are not repeated for it.
    """
    failed = []
    for record in event["Records"]:
        try:
            take(record["body"])
        except NotYet as error:
            log(f"again later: {error}", "WARNING")
            failed.append(record["messageId"])
        except Exception as error:  # noqa: BLE001  # whatever it is, it must cost its own message only
            said = f"{type(error).__name__}: {error}; the message {record['body'][:300]!r} comes back"
            log(f"failed: {said}", "ERROR")
            failed.append(record["messageId"])
    return {"batchItemFailures": [{"itemIdentifier": message} for message in failed]}
