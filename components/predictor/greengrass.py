"""The Greengrass nucleus, through AWS's own IPC client: IoT Core, and topics between components.

It is no part of the trainer's adapter: the two need different calls of the nucleus, and a component is
deployed, and changes, by itself.
"""

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import awsiot.greengrasscoreipc
import msgspec
from awscrt.exceptions import AwsCrtError
from awsiot.eventstreamrpc import ConnectionClosedError, LifecycleHandler, StreamClosedError
from awsiot.greengrasscoreipc.clientv2 import GreengrassCoreIPCClientV2
from awsiot.greengrasscoreipc.model import (
    BinaryMessage,
    ConfigurationUpdateEvents,
    IoTCoreMessage,
    JsonMessage,
    PublishMessage,
    ReportedLifecycleState,
    SubscriptionResponseMessage,
    UnauthorizedError,
)

from components.predictor.errors import ConnectionLost, Forbidden, NotNow

CALL_SECONDS = 10.0  # the SDK's own calls wait for ever
log = logging.getLogger(__name__)
# The SDK logs, with tracebacks, what it raises or tells as well, and its own shutdown.
logging.getLogger("awsiot").setLevel(logging.CRITICAL + 1)
Lost = Callable[[str], None]
T = TypeVar("T")


class _Lifecycle(LifecycleHandler):  # type: ignore[misc] # the SDK has no types
    def __init__(self, lost: Lost) -> None:
        self._lost = lost

    def on_disconnect(self, reason: Exception | None) -> None:
        if reason is not None:  # None: this side closed it
            self._lost(f"the nucleus closed the connection ({reason!r})")

    def on_error(self, error: Exception) -> bool:
        log.warning("the connection to the nucleus has an error: %r", error)
        return True


class Nucleus:
    """The connection to the nucleus. When it is lost, ``lost`` is called and the process has to end."""

    def __init__(self, client: GreengrassCoreIPCClientV2, lost: Lost) -> None:
        self._client = client
        self._lost = lost
        self._closing = False

    @classmethod
    def connect(cls, lost: Lost) -> "Nucleus":
        """Connect to the nucleus that started this process; raises ConnectionLost if there is none."""
        try:
            connection = awsiot.greengrasscoreipc.connect(
                lifecycle_handler=_Lifecycle(lost), timeout=CALL_SECONDS
            )
        except KeyError as error:
            message = f"no Greengrass nucleus started this process: the variable {error} is not set"
            raise ConnectionLost(message) from error
        except Exception as error:
            message = f"the Greengrass nucleus does not answer: {error!r}"
            raise ConnectionLost(message) from error
        # One thread: the default executor has several, and would hand events over in any order.
        return cls(GreengrassCoreIPCClientV2(connection, executor=ThreadPoolExecutor(1)), lost)

    def configuration(self) -> dict[str, Any]:
        """Return the component's configuration; raises, as all below, NotNow, Forbidden or ConnectionLost."""
        answer = _result(self._client.get_configuration_async, "read the configuration")
        return dict(answer.value or {})

    def watch_configuration(self, changed: Callable[[], None]) -> None:
        """Have ``changed`` called, on another thread, once per changed value."""

        def hear(event: ConfigurationUpdateEvents) -> None:  # noqa: ARG001 - it names a path, not a value
            changed()

        self._open(
            "watch the configuration",
            lambda **handlers: self._client.subscribe_to_configuration_update_async(
                on_stream_event=hear, **handlers
            ),
        )

    def publish(self, topic: str, payload: bytes) -> None:
        """Publish to AWS IoT Core, at most once: what is said here is said again later."""
        _result(
            lambda: self._client.publish_to_iot_core_async(topic_name=topic, qos="0", payload=payload),
            f"publish to {topic}",
        )

    def subscribe(self, topic: str, handler: Callable[[bytes], None]) -> None:
        """Hear a topic of AWS IoT Core, on another thread."""

        def hear(event: IoTCoreMessage) -> None:
            if event.message and event.message.payload is not None:
                handler(event.message.payload)

        self._open(
            f"subscribe to {topic}",
            lambda **handlers: self._client.subscribe_to_iot_core_async(
                topic_name=topic, qos="1", on_stream_event=hear, **handlers
            ),
        )

    def subscribe_locally(self, topic: str, handler: Callable[[bytes, bool], None]) -> None:
        """Hear a topic between components; the handler gets the text, and whether it came as JSON."""

        def hear(event: SubscriptionResponseMessage) -> None:
            if event.json_message is not None:
                handler(msgspec.json.encode(event.json_message.message), True)  # noqa: FBT003 - a handler's
            elif event.binary_message is not None:
                handler(event.binary_message.message or b"", False)  # noqa: FBT003

        self._open(
            f"subscribe to the local topic {topic}",
            lambda **handlers: self._client.subscribe_to_topic_async(
                topic=topic, on_stream_event=hear, **handlers
            ),
        )

    def publish_locally(self, topic: str, text: bytes, *, as_json: bool) -> None:
        """Publish to a topic between components, in the form in which the request came."""
        if as_json:
            message = PublishMessage(json_message=JsonMessage(message=msgspec.json.decode(text)))
        else:
            message = PublishMessage(binary_message=BinaryMessage(message=text))
        _result(
            lambda: self._client.publish_to_topic_async(topic=topic, publish_message=message),
            f"publish to the local topic {topic}",
        )

    def report_running(self) -> None:
        """Tell the nucleus that the component does its work; one that does not want to know it is fine."""
        try:
            _result(
                lambda: self._client.update_state_async(state=ReportedLifecycleState.RUNNING),
                "report the state RUNNING",
            )
        except (NotNow, Forbidden) as error:
            log.info("%s", error)

    def close(self) -> None:
        """Close the connection; ``lost`` is not called."""
        self._closing = True
        self._client.close(executor_wait=False)

    def _open(self, what: str, call: Callable[..., tuple["Future[Any]", Any]]) -> None:
        opened = False
        operation: Any = None

        def closed() -> None:
            if opened and not self._closing:
                self._lost(f"the nucleus closed the stream of: {what}")

        def failed(error: Exception) -> bool:
            log.warning("%s: %r", what, error)
            return False  # keeps the stream open

        def start() -> "Future[Any]":
            nonlocal operation
            future, operation = call(on_stream_error=failed, on_stream_closed=closed)
            return future

        try:
            _result(start, what)
            opened = True
        finally:
            if not opened and operation:
                # After a time-out it might open all the same, and nobody would ever close it.
                operation.close()


def _result(call: Callable[[], "Future[T]"], what: str) -> T:
    """Return a call's answer; translate what the SDK raises."""
    try:
        return call().result(CALL_SECONDS)
    except UnauthorizedError as error:
        message = f"not allowed to {what}: the recipe's accessControl has to name it ({error.message})"
        raise Forbidden(message) from error
    except (ConnectionClosedError, StreamClosedError) as error:
        message = f"could not {what}: the connection to the nucleus is closed"
        raise ConnectionLost(message) from error
    except TimeoutError as error:
        message = f"could not {what}: the nucleus did not answer within {CALL_SECONDS:g} s"
        raise NotNow(message) from error
    except (RuntimeError, AwsCrtError) as error:  # the root of all that the SDK raises is RuntimeError
        message = f"could not {what}: {getattr(error, 'message', None) or repr(error)}"
        raise NotNow(message) from error
