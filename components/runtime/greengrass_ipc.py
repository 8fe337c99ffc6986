"""The Greengrass nucleus, through AWS's own IPC client: what every component of fedgrass asks of it."""

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError  # the same one from Python 3.11 on
from typing import Any, ClassVar, TypeVar

import awsiot.greengrasscoreipc
from awscrt.exceptions import AwsCrtError
from awsiot.eventstreamrpc import ConnectionClosedError, LifecycleHandler, StreamClosedError
from awsiot.greengrasscoreipc.clientv2 import GreengrassCoreIPCClientV2
from awsiot.greengrasscoreipc.model import (
    ComponentUpdatePolicyEvents,
    ConfigurationUpdateEvents,
    IoTCoreMessage,
    ReportedLifecycleState,
    UnauthorizedError,
)
from typing_extensions import Self

from components.runtime.token_exchange_address import COMPONENT, PORT_KEYS
from fedgrass.federation.errors import FedgrassError

CALL_SECONDS = 10.0  # the SDK's own calls wait for ever
log = logging.getLogger(__name__)
# The SDK logs, with tracebacks, what it raises or tells as well, and its own shutdown.
logging.getLogger("awsiot").setLevel(logging.CRITICAL + 1)
Lost = Callable[[str], None]
T = TypeVar("T")
Ipc = TypeVar("Ipc", bound="GreengrassIpc")


class _Lifecycle(LifecycleHandler):  # type: ignore[misc] # the SDK has no types
    def __init__(self, lost: Lost) -> None:
        self._lost = lost

    def on_disconnect(self, reason: Exception | None) -> None:
        if reason is not None:  # None: this side closed it
            self._lost(f"the nucleus closed the connection ({reason!r})")

    def on_error(self, error: Exception) -> bool:
        log.warning("the connection to the nucleus has an error: %r", error)
        return True


class _Stream:
    """A stream of events; ``lost`` is called if it ends although it was opened and nobody closed it.

    The SDK tells of the end on a thread of its own, perhaps before the thread that opens the stream knows
    that it is open. Each of the two notes its own part before it looks at the other's: none is missed.
    """

    def __init__(self, lost: Callable[[], None]) -> None:
        self.operation: Any = None  # of the SDK, which has no types
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
    """The connection of a component to its nucleus; a component's own class names the errors that it raises.

    It is made once: when it is lost, ``lost`` is called (on a thread of the SDK) and the process has to end,
    since the nucleus gives a new token to a new process only.
    """

    not_now: ClassVar[type[FedgrassError]]  # the nucleus did not do it this time
    forbidden: ClassVar[type[FedgrassError]]  # its access control does not allow it
    connection_lost: ClassVar[type[FedgrassError]]  # only a new process gets a new one

    def __init__(self, client: GreengrassCoreIPCClientV2, lost: Lost) -> None:
        self._client = client
        self._lost = lost
        self._subscriptions: dict[str, _Stream] = {}
        self._subscription_lost: Callable[[str, str], None] | None = None
        self._closing = False

    @classmethod
    def connect(cls, lost: Lost) -> "Self":
        """Connect to the nucleus that started this process.

        Raises:
            connection_lost: there is none, or it does not know the process.
        """
        try:
            connection = awsiot.greengrasscoreipc.connect(
                lifecycle_handler=_Lifecycle(lost), timeout=CALL_SECONDS
            )
        except KeyError as error:
            message = f"no Greengrass nucleus started this process: the variable {error} is not set"
            raise cls.connection_lost(message) from error
        except Exception as error:
            message = f"the Greengrass nucleus does not answer: {error!r}"
            raise cls.connection_lost(message) from error
        # One thread: the default executor has several, and would hand events over in any order.
        return cls(GreengrassCoreIPCClientV2(connection, executor=ThreadPoolExecutor(1)), lost)

    def publish(self, topic: str, payload: bytes, qos: int) -> None:
        """Publish to AWS IoT Core; raises, as all below, not_now, forbidden or connection_lost."""
        self._result(
            lambda: self._client.publish_to_iot_core_async(topic_name=topic, qos=str(qos), payload=payload),
            f"publish to {topic}",
        )

    def subscribe(self, topic: str, handler: Callable[[bytes], None], qos: int) -> None:
        """Have ``handler`` called, on another thread, with each payload of a topic of AWS IoT Core.

        An earlier subscription to the topic is closed once the new one stands, and goes on if that fails;
        in between a message may come twice.
        """

        def hear(event: IoTCoreMessage) -> None:
            if event.message and event.message.payload is not None:
                handler(event.message.payload)

        self._replace(
            topic,
            f"subscribe to {topic}",
            lambda **handlers: self._client.subscribe_to_iot_core_async(
                topic_name=topic, qos=str(qos), on_stream_event=hear, **handlers
            ),
        )

    def unsubscribe(self, topic: str) -> None:
        """Close the subscription to a topic, if there is one."""
        subscription = self._subscriptions.pop(topic, None)
        if subscription:
            subscription.close()

    def watch_subscriptions(self, lost: Callable[[str, str], None]) -> None:
        """Have ``lost`` called, on another thread, with a topic whose stream alone ended, and why.

        Without this such an end counts as the loss of the connection.
        """
        self._subscription_lost = lost

    def trouble(self) -> str:
        """Return what disturbs the connection to IoT Core: the nucleus does not tell its components."""
        return ""

    def configuration(self) -> dict[str, Any]:
        """Return the component's configuration as it is now."""
        answer = self._result(self._client.get_configuration_async, "read the configuration")
        return dict(answer.value or {})

    def token_exchange_port(self) -> int | None:
        """Return where the token exchange service listens on this machine now; None if nobody knows."""
        for key in PORT_KEYS:
            try:
                answer = self._result(
                    lambda key=key: self._client.get_configuration_async(  # type: ignore[misc] # no types
                        component_name=COMPONENT, key_path=[key]
                    ),
                    f"read the {key} of {COMPONENT}",
                )
            except (self.not_now, self.forbidden) as error:
                log.debug("%s", error)
                continue
            port = str((answer.value or {}).get(key, ""))
            if port.isdecimal() and int(port) > 0:
                return int(port)
        return None

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

    def watch_updates(self, asked: Callable[[str], None]) -> None:
        """Have ``asked`` called, on another thread, with the id of each deployment that is about to begin.

        The nucleus waits for an answer, :meth:`defer_update`. Nucleus Lite does not ask: there this raises.
        """

        def hear(event: ComponentUpdatePolicyEvents) -> None:
            if event.pre_update_event and event.pre_update_event.deployment_id:
                asked(event.pre_update_event.deployment_id)

        self._open(
            "watch updates of components",
            lambda **handlers: self._client.subscribe_to_component_updates_async(
                on_stream_event=hear, **handlers
            ),
        )

    def defer_update(self, deployment: str, seconds: float, reason: str) -> None:
        """Have a deployment wait for some seconds, after which the nucleus asks again; 0 lets it go on."""
        self._result(
            lambda: self._client.defer_component_update_async(
                deployment_id=deployment, recheck_after_ms=round(seconds * 1000), message=reason
            ),
            "answer whether an update may begin",
        )

    def report_running(self) -> None:
        """Tell the nucleus that the component does its work; one that does not want to know it is fine."""
        try:
            self._result(
                lambda: self._client.update_state_async(state=ReportedLifecycleState.RUNNING),
                "report the state RUNNING",
            )
        except (self.not_now, self.forbidden) as error:
            log.info("%s", error)

    def close(self) -> None:
        """Close the connection; ``lost`` is not called."""
        self._closing = True
        self._client.close(executor_wait=False)

    def _replace(self, topic: str, what: str, call: Callable[..., tuple["Future[Any]", Any]]) -> None:
        """Open a topic's stream, then close the former one."""

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
        except FedgrassError:
            # After a time-out it might open all the same, and nobody would ever close it.
            stream.close()
            raise
        stream.opened()
        return stream

    def _result(self, call: Callable[[], "Future[T]"], what: str) -> T:
        """Return a call's answer; translate what the SDK raises."""
        try:
            return call().result(CALL_SECONDS)
        except UnauthorizedError as error:
            message = f"not allowed to {what}: the recipe's accessControl has to name it ({error.message})"
            raise self.forbidden(message) from error
        except (ConnectionClosedError, StreamClosedError) as error:
            message = f"could not {what}: the connection to the nucleus is closed"
            raise self.connection_lost(message) from error
        except (TimeoutError, FutureTimeoutError) as error:
            message = f"could not {what}: the nucleus did not answer within {CALL_SECONDS:g} s"
            raise self.not_now(message) from error
        except (RuntimeError, AwsCrtError) as error:  # the root of all that the SDK raises is RuntimeError
            message = f"could not {what}: {getattr(error, 'message', None) or repr(error)}"
            raise self.not_now(message) from error
