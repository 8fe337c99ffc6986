"""The completion of an assignment: what the device reports of its work, within the size of a message."""

from collections.abc import Mapping

import msgspec
from msgspec.structs import replace

from components.trainer.worker.worker_protocol import Result, id_of
from fedgrass.federation.messages import LARGEST_MESSAGE, Announcement, Completion
from fedgrass.federation.messages.message_fields import LONGEST_CODE, shorten


def completion_of(
    announcement: Announcement,
    result: Result,
    upload_seconds: float,
    *,
    code: str = "",
    timeline: str = "",
) -> Completion:
    """Return the completion of an assignment.

    Args:
        announcement: the assignment.
        result: what the worker reported of it.
        upload_seconds: duration of the upload of its update.
        code: versions of the code that did the work.
        timeline: when each part of the work began and ended, for an announcement with a trace.
    """
    completion = Completion(
        version=announcement.version,
        run=announcement.run,
        round=announcement.round,
        attempt=announcement.attempt,
        round_id=id_of(announcement),
        announced_at=announcement.announced_at,
        bytes=result.bytes,
        checksum=result.checksum,
        examples=result.examples,
        metrics=result.metrics,
        examples_evaluated=result.examples_evaluated,
        train_metrics=result.train_metrics,
        unsent_metrics=result.unsent_metrics,
        download_seconds=result.download_seconds,
        evaluate_seconds=result.evaluate_seconds,
        train_seconds=result.train_seconds,
        upload_seconds=upload_seconds,
        partial=result.partial,
        answer=result.answer,
    )
    further = {
        "code": shorten(code, LONGEST_CODE),
        "note": shorten(result.note),
        "timeline": timeline,
    }
    return _with_room_for(completion, further)


def _with_room_for(completion: Completion, further: Mapping[str, str]) -> Completion:
    """Return a completion with further fields, each only if it has a text and the message has room for it.

    Args:
        completion: all that the round needs, which is worth more.
        further: texts by field, the most important one first.
    """
    for name, text in further.items():
        longer = replace(completion, **{name: text})
        if text and len(msgspec.json.encode(longer)) <= LARGEST_MESSAGE:
            completion = longer
    return completion
