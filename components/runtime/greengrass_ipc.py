"""The connection of a component to the Greengrass nucleus, over the IPC client of AWS's SDK."""

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError  # identical from Python 3.11 on
from typing import Any, TypeVar

import awsiot.greengrasscoreipc
from awscrt.exceptions import AwsCrtError
from awsiot.eventstreamrpc import ConnectionClosedError, LifecycleHandler, StreamClosedError
from awsiot.greengrasscoreipc.clientv2 import GreengrassCoreIPCClientV2
from awsiot.greengrasscoreipc.model import (
    ComponentUpdatePolicyEvents,
    ConfigurationUpdateEvents,
    IoTCoreMessage,
    ReportedLifecycleState,
    ResourceNotFoundError,
    UnauthorizedError,
)
from typing_extensions import Self

from components.runtime import device_options
from components.runtime.component_errors import ComponentError, ConnectionLost, Forbidden, Unavailable
from components.runtime.token_exchange_address import COMPONENT, PORT_KEYS

CALL_SECONDS = 10.0  # the SDK's own calls wait indefinitely
log = logging.getLogger(__name__)
# The SDK logs, with tracebacks, what it also raises or passes to callbacks, and its own shutdown.
logging.getLogger("awsiot").setLevel(logging.CRITICAL + 1)
Lost = Callable[[str], None]
T = TypeVar("T")
Ipc = TypeVar("Ipc", bound="GreengrassIpc")


class _Lifecycle(LifecycleHandler):  # type: ignore[misc] # the SDK has no types
    def __init__(self, lost: Lost) -> None:
        self._lost = lost

    def on_disconnect(self, reason: Exception | None) -> None:
        if reason is not None:  # None: closed by this side
            self._lost(f"the nucleus closed the connection ({reason!r})")

    def on_error(self, error: Exception) -> bool:
        log.warning("the connection to the nucleus has an error: %r", error)
        return True


class _Stream:
    """A stream of events; calls ``lost`` if it ends after it was opened and before it is closed here.

    The SDK reports the end on its own thread, perhaps before the opening thread knows that the stream is
    open. Each thread sets its own flag before it reads the other's, so that the end is never missed.
    """

    def __init__(self, lost: Callable[[], None]) -> None:
        self.operation: Any = None  # the SDK has no types
        self._lost = lost
        self._opened = self._ended = False
        self._wanted = True

    def opened(self) -> None:
        self._opened = True
        self._look()

    def ended(self) -> None:
        self._ended = True
        self._look()

    def close(self) -> None:
        self._wanted = False
        if self.operation:
            self.operation.close()

    def _look(self) -> None:
        if self._opened and self._ended and self._wanted:
            self._lost()


class GreengrassIpc:
    """The connection of a component to its nucleus.

    It is opened once: when it is lost, ``lost`` is called (on a thread of the SDK) and the process has to
    end, because the nucleus gives a new token only to a new process.
    """

    def __init__(self, client: GreengrassCoreIPCClientV2, lost: Lost) -> None:
        self._client = client
        self._lost = lost
        self._subscriptions: dict[str, _Stream] = {}
        self._subscription_lost: Callable[[str, str], None] | None = None
        self._closing = False
        self._options = ""  # the device's own, when the configuration was read last

    @classmethod
    def connect(cls, lost: Lost) -> "Self":
        """Connect to the nucleus that started this process.

        Raises:
            ConnectionLost: there is none, or it does not know the process.
        """
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
        # One thread: the default executor has several, and would deliver events in any order.
        return cls(GreengrassCoreIPCClientV2(connection, executor=ThreadPoolExecutor(1)), lost)

    def publish(self, topic: str, payload: bytes, qos: int) -> None:
        """Publish to AWS IoT Core.

        Raises, like all methods below, Unavailable, Forbidden or ConnectionLost.
        """
        self._result(
            lambda: self._client.publish_to_iot_core_async(topic_name=topic, qos=str(qos), payload=payload),
            f"publish to {topic}",
        )

    def subscribe(self, topic: str, handler: Callable[[bytes], None], qos: int) -> None:
        """Call ``handler``, on another thread, with each payload of a topic of AWS IoT Core.

        An earlier subscription to the topic is closed once the new one is open, and continues if opening it
        fails; in between a message may arrive twice.
        """

        def receive(event: IoTCoreMessage) -> None:
            if event.message and event.message.payload is not None:
                handler(event.message.payload)

        self._replace(
            topic,
            f"subscribe to {topic}",
            lambda **handlers: self._client.subscribe_to_iot_core_async(
                topic_name=topic, qos=str(qos), on_stream_event=receive, **handlers
            ),
        )

    def unsubscribe(self, topic: str) -> None:
        """Close the subscription to a topic, if there is one."""
        subscription = self._subscriptions.pop(topic, None)
        if subscription:
            subscription.close()

    def watch_subscriptions(self, lost: Callable[[str, str], None]) -> None:
        """Call ``lost``, on another thread, with the topic of a stream that ended alone, and the reason.

        Without this, such an end counts as the loss of the connection.
        """
        self._subscription_lost = lost

    def trouble(self) -> str:
        """Return an empty text: the nucleus does not report its connection to IoT Core to components."""
        return ""

    def configuration(self) -> dict[str, Any]:
        """Return the component's current configuration, with the device's own options of its tasks.

        Raises ConfigurationError, too, if those options cannot be used.
        """
        answer = self._result(self._client.get_configuration_async, "read the configuration")
        self._options = self._read_device_options()
        return device_options.merge_device_options(answer.value or {}, self._options)

    def device_options_changed(self) -> bool:
        """Return whether the device's own options have changed since ``configuration`` read them."""
        return self._read_device_options() != self._options

    def _read_device_options(self) -> str:
        """Return the device's own options of tasks; empty if none were deployed to it."""
        try:
            answer = self._result(
                lambda: self._client.get_configuration_async(component_name=device_options.COMPONENT),
                f"read the configuration of {device_options.COMPONENT}",
            )
        except Unavailable as error:
            if isinstance(error.__cause__, ResourceNotFoundError):
                return ""
            raise
        return str((answer.value or {}).get(device_options.KEY, ""))

    def token_exchange_port(self) -> int | None:
        """Return the current port of the token exchange service on this machine; None if unknown."""
        for key in PORT_KEYS:
            try:
                answer = self._result(
                    lambda key=key: self._client.get_configuration_async(  # type: ignore[misc] # no types
                        component_name=COMPONENT, key_path=[key]
                    ),
                    f"read the {key} of {COMPONENT}",
                )
            except (Unavailable, Forbidden) as error:
                log.debug("%s", error)
                continue
            port = str((answer.value or {}).get(key, ""))
            if port.isdecimal() and int(port) > 0:
                return int(port)
        return None

    def watch_configuration(self, changed: Callable[[], None]) -> None:
        """Call ``changed``, on another thread, once per changed value."""

        def receive(event: ConfigurationUpdateEvents) -> None:  # noqa: ARG001 - it has a path, not the value
            changed()

        self._open(
            "watch the configuration",
            lambda **handlers: self._client.subscribe_to_configuration_update_async(
                on_stream_event=receive, **handlers
            ),
        )

    def watch_updates(self, asked: Callable[[str], None]) -> None:
        """Call ``asked``, on another thread, with the id of each deployment that is about to begin.

        The nucleus waits for the answer, :meth:`defer_update`.

        Raises:
            Unavailable: also on Nucleus Lite, which does not ask.
        """

        def receive(event: ComponentUpdatePolicyEvents) -> None:
            if event.pre_update_event and event.pre_update_event.deployment_id:
                asked(event.pre_update_event.deployment_id)

        self._open(
            "watch updates of components",
            lambda **handlers: self._client.subscribe_to_component_updates_async(
                on_stream_event=receive, **handlers
            ),
        )

    def defer_update(self, deployment: str, seconds: float, reason: str) -> None:
        """Delay a deployment by ``seconds``, after which the nucleus asks again; 0 lets it begin."""
        self._result(
            lambda: self._client.defer_component_update_async(
                deployment_id=deployment, recheck_after_ms=round(seconds * 1000), message=reason
            ),
            "answer whether an update may begin",
        )

    def report_running(self) -> None:
        """Report the state RUNNING; a nucleus that rejects the report is only logged."""
        try:
            self._result(
                lambda: self._client.update_state_async(state=ReportedLifecycleState.RUNNING),
                "report the state RUNNING",
            )
        except (Unavailable, Forbidden) as error:
            log.info("%s", error)

    def close(self) -> None:
        """Close the connection; ``lost`` is not called."""
        self._closing = True
        self._client.close(executor_wait=False)

    def _replace(self, topic: str, what: str, call: Callable[..., tuple["Future[Any]", Any]]) -> None:
        """Open a topic's stream, then close the earlier one."""

        def lost() -> None:
            reason = f"the nucleus closed the stream of: {what}"
            if self._subscription_lost:
                self._subscription_lost(topic, reason)
            else:
                self._lost(reason)

        stream = self._open(what, call, lost)
        former, self._subscriptions[topic] = self._subscriptions.get(topic), stream
        if former:
            former.close()

    def _open(
        self,
        what: str,
        call: Callable[..., tuple["Future[Any]", Any]],
        lost_alone: Callable[[], None] | None = None,
    ) -> _Stream:
        def lost() -> None:
            if self._closing:
                return
            if lost_alone:
                lost_alone()
            else:
                self._lost(f"the nucleus closed the stream of: {what}")

        def failed(error: Exception) -> bool:
            log.warning("%s: %r", what, error)
            return False  # keeps the stream open

        stream = _Stream(lost)

        def start() -> "Future[Any]":
            future, stream.operation = call(on_stream_error=failed, on_stream_closed=stream.ended)
            return future

        try:
            self._result(start, what)
        except ComponentError:
            # After a time-out the stream may open all the same, and would never be closed.
            stream.close()
            raise
        stream.opened()
        return stream

    def _result(self, call: Callable[[], "Future[T]"], what: str) -> T:
        """Return a call's answer; translate the errors of the SDK."""
        try:
            return call().result(CALL_SECONDS)
        except UnauthorizedError as error:
            message = f"not allowed to {what}: the recipe's accessControl has to name it ({error.message})"
            raise Forbidden(message) from error
        except (ConnectionClosedError, StreamClosedError) as error:
            message = f"could not {what}: the connection to the nucleus is closed"
            raise ConnectionLost(message) from error
        except (TimeoutError, FutureTimeoutError) as error:
            message = f"could not {what}: the nucleus did not answer within {CALL_SECONDS:g} s"
            raise Unavailable(message) from error
        except (RuntimeError, AwsCrtError) as error:  # the base class of the SDK's errors is RuntimeError
            message = f"could not {what}: {getattr(error, 'message', None) or repr(error)}"
            raise Unavailable(message) from error
