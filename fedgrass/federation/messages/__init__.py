"""The messages of the protocol: frozen, versioned, and validated on arrival.

    message_types.py    every message, the encodings that they name, and the supported versions
    message_fields.py   the types of their fields
    message_codec.py    messages to JSON and back, with all checks
    trace_context.py    the trace of a round: its ids, its context, the timelines of devices
    alarms.py           messages that the cloud sends to itself for later
    device_log.py       the log lines that a device uploads on request

Receivers ignore unknown fields, so that newer senders may add some; they refuse unsupported versions of
messages about work.
"""

from fedgrass.federation.messages.message_codec import (
    LARGEST_MESSAGE,
    AnnounceMessage,
    decode,
    decode_announce,
    encode,
)
from fedgrass.federation.messages.message_types import (
    Announcement,
    Carried,
    CarriedFile,
    Completion,
    Heartbeat,
    Hello,
    LogRequest,
    Message,
    MessageHeader,
    ModelAlias,
    NewModel,
    PredictorReport,
    RoundChange,
    RoundFigures,
    Status,
    Verdict,
    WorkMessage,
    round_id,
)

__all__ = [
    "LARGEST_MESSAGE",
    "AnnounceMessage",
    "Announcement",
    "Carried",
    "CarriedFile",
    "Completion",
    "Heartbeat",
    "Hello",
    "LogRequest",
    "Message",
    "MessageHeader",
    "ModelAlias",
    "NewModel",
    "PredictorReport",
    "RoundChange",
    "RoundFigures",
    "Status",
    "Verdict",
    "WorkMessage",
    "decode",
    "decode_announce",
    "encode",
    "round_id",
]
