"""A core's link to IoT Core on which messages are dropped, doubled, delayed and reordered, both ways."""

import asyncio
from collections.abc import Callable

from greengrass_emulator.iot.iot_connection import IotConnection, IotMessage, QualityOfService
from tests.chaos.faults import Faults

DROP, DOUBLE, DELAY, REORDER = 0.04, 0.05, 0.05, 0.05  # of the messages
DROP_HEARTBEAT = 0.08
LONGEST_DELAY = 3.0  # seconds
LONGEST_HOLD = 1.5  # seconds that a message waits to be overtaken by another

Pass = Callable[[], None]


class Lane:
    """One direction of a link. Used in one event loop."""

    def __init__(self, faults: Faults, place: str) -> None:
        self._faults = faults
        self._dice = faults.dice(place)
        self._timers: set[asyncio.TimerHandle] = set()
        self._held: list[Pass] = []

    def carry(self, topic: str, hand_over: Pass, lose: Pass) -> None:
        """Call ``hand_over`` for a message now, later, twice, after the next one, or ``lose`` instead."""
        fate = self._fate(topic) if self._faults.active else ""
        if fate:
            self._faults.count(fate, topic.rpartition("/")[2])
        match fate:
            case "message_dropped" | "heartbeat_dropped":
                lose()
            case "message_delayed":
                self.later(self._dice.uniform(0.2, LONGEST_DELAY), hand_over)
            case "message_reordered":
                self._held.append(hand_over)
                self.later(LONGEST_HOLD, self._release)
            case "message_doubled":
                hand_over()
                hand_over()
            case _:
                hand_over()
                self._release()

    def close(self) -> None:
        """Drop the messages still on their way."""
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        self._held.clear()

    def _fate(self, topic: str) -> str:
        drawn = self._dice.random()
        if topic.endswith("/heartbeat"):
            return "heartbeat_dropped" if drawn < DROP_HEARTBEAT else ""
        for fate, share in (
            ("message_dropped", DROP),
            ("message_doubled", DOUBLE),
            ("message_delayed", DELAY),
            ("message_reordered", REORDER),
        ):
            if drawn < share:
                return fate
            drawn -= share
        return ""

    def _release(self) -> None:
        held, self._held = self._held, []
        for hand_over in held:
            hand_over()

    def later(self, seconds: float, call: Pass) -> None:
        """Call after some seconds, unless the lane is closed by then."""

        def run() -> None:
            self._timers.discard(timer)
            call()

        timer = asyncio.get_running_loop().call_later(seconds, run)
        self._timers.add(timer)


class DisturbedConnection:
    """An ``IotConnection`` that passes the messages of another one over two faulty lanes."""

    def __init__(self, inner: IotConnection, faults: Faults, thing: str) -> None:
        self._inner = inner
        self._outward = Lane(faults, f"{thing} to the cloud")
        self._inward = Lane(faults, f"the cloud to {thing}")

    @property
    def connected(self) -> bool:
        """See ``IotConnection``; this also applies to the other methods."""
        return self._inner.connected

    async def start(self, deliver: Callable[[IotMessage], None], seconds: float) -> None:
        """Connect."""

        def heard(message: IotMessage) -> None:
            self._inward.carry(message.topic, lambda: deliver(message), _nothing)

        await self._inner.start(heard, seconds)

    async def stop(self) -> None:
        """Disconnect; what is on its way is lost."""
        self._outward.close()
        self._inward.close()
        await self._inner.stop()

    def publish(self, message: IotMessage, on_acknowledged: Callable[[], None]) -> None:
        """Send a message; a lost one is still acknowledged, as by a broker that then crashes."""
        acknowledge = _once(on_acknowledged)
        self._outward.carry(
            message.topic,
            lambda: self._inner.publish(message, acknowledge),
            lambda: self._outward.later(0.0, acknowledge),
        )

    async def subscribe(self, topic_filter: str, qos: QualityOfService, seconds: float) -> None:
        """Subscribe."""
        await self._inner.subscribe(topic_filter, qos, seconds)

    async def unsubscribe(self, topic_filter: str) -> None:
        """Unsubscribe."""
        await self._inner.unsubscribe(topic_filter)

    async def cut(self) -> None:
        """Break the link."""
        await self._inner.cut()

    async def restore(self) -> None:
        """Restore the link."""
        await self._inner.restore()


def _nothing() -> None:
    """Drop an incoming message."""


def _once(call: Callable[[], None]) -> Callable[[], None]:
    calls = [call]

    def run() -> None:
        if calls:
            calls.pop()()

    return run
