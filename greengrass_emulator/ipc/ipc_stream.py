"""The server's side of one IPC stream: the call of an operation, and the events of a subscription."""

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from greengrass_emulator.ipc.event_stream import Frame, HeaderValue, MessageFlag, MessageType
from greengrass_emulator.ipc.ipc_model import IpcError, ServiceError

Operation = Callable[["Call"], Awaitable[Mapping[str, object]]]
"""Serves one call and returns the body of the response; raises IpcError to respond with an error."""


@dataclass(frozen=True)
class Call:
    """One request of a component."""

    component: str
    operation: str
    """Without its namespace, as in `PublishToIoTCore`."""
    body: bytes
    """JSON, not yet validated."""
    stream: "IpcStream"


class IpcStream:
    """Sends the response to one call, then events until either side ends the stream.

    Events that precede the response are delayed until it is sent: an event before the response fails the call
    in the SDK.
    """

    def __init__(
        self, stream_id: int, send: Callable[[Frame], None], on_finished: Callable[[int], None]
    ) -> None:
        self._id = stream_id
        self._send = send
        self._on_finished = on_finished
        self._on_closed: Callable[[], None] | None = None
        self._waiting_events: list[Frame] = []
        self.answered = False
        self.deaf = False
        """Whether events are dropped although the stream stays open."""
        self.closed = False

    def keep_open(self, on_closed: Callable[[], None]) -> None:
        """Make this a subscription; ``on_closed`` is called once when either side ends the stream."""
        if self.closed:
            on_closed()
        else:
            self._on_closed = on_closed

    def respond(self, operation: str, body: Mapping[str, object]) -> None:
        """Send the response of the operation, and end the stream unless it was kept open."""
        if self.closed:
            return
        flags = MessageFlag.NONE if self._on_closed else MessageFlag.TERMINATE_STREAM
        self._send(
            self._frame(MessageType.APPLICATION_MESSAGE, flags, f"aws.greengrass#{operation}Response", body)
        )
        self.answered = True
        for event in self._waiting_events:
            self._send(event)
        self._waiting_events.clear()
        if not self._on_closed:
            self.close()

    def fail(self, error: IpcError, *, named: bool = True) -> None:
        """Send an error and end the stream.

        Args:
            error: the error response.
            named: whether its text is in the field that the SDK reads. Nucleus Lite uses another field.
        """
        if not self.closed:
            flags = MessageFlag.TERMINATE_STREAM
            body = _error_body(error) if named else _error_body_of_lite(error)
            self._send(self._frame(MessageType.APPLICATION_ERROR, flags, error.model, body))
            self.close()

    def send_event(self, model: str, body: Mapping[str, object]) -> None:
        """Send one event of a subscription; ``model`` names its shape, such as ``IoTCoreMessage``."""
        if self.closed or self.deaf:
            return
        event = self._frame(
            MessageType.APPLICATION_MESSAGE, MessageFlag.NONE, f"aws.greengrass#{model}", body
        )
        if self.answered:
            self._send(event)
        else:
            self._waiting_events.append(event)

    def close(self) -> None:
        """End the stream, and call the function that ``keep_open`` was given. May be called again."""
        if not self.closed:
            self.closed = True
            self._waiting_events.clear()
            self._on_finished(self._id)
            if self._on_closed:
                self._on_closed()

    def _frame(self, kind: MessageType, flags: MessageFlag, model: str, body: Mapping[str, object]) -> Frame:
        headers: dict[str, HeaderValue] = {
            ":message-type": int(kind),
            ":message-flags": int(flags),
            ":stream-id": self._id,
            ":content-type": "application/json",
            "service-model-type": model,
        }
        return Frame(headers, json.dumps(body, separators=(",", ":")).encode())


def _error_body(error: IpcError) -> dict[str, object]:
    body: dict[str, object] = {"message": str(error)}
    if isinstance(error, ServiceError):
        body["error"] = "ServiceError"
    return body


def _error_body_of_lite(error: IpcError) -> dict[str, object]:
    return {"_message": str(error), "_errorCode": type(error).__name__}
