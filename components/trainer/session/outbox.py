"""Outgoing messages: the queue that publishes them in order, and replies that wait for a verdict.

The outbox retries until the connection accepts a message. A completion is published again until the cloud has
sent its verdict on it, or its deadline has passed; a failure is published once.
"""

import logging
import random
from collections import deque
from collections.abc import Callable, Iterator
from typing import Literal

import msgspec
from msgspec import UNSET

from components.runtime.component_errors import Forbidden, Unavailable
from components.runtime.event_loop import EventLoop, Timer
from components.runtime.retries import delays
from components.trainer.session.journal import Journal, Reply
from components.trainer.session.session_ports import AT_LEAST_ONCE, AT_MOST_ONCE, Messaging
from fedgrass.federation.errors import MessageError
from fedgrass.federation.messages import Announcement, Completion, Message, Status, Verdict, encode, round_id
from fedgrass.federation.messages.message_fields import shorten

_FIRST_DELAY = 0.4  # seconds at most
_LARGEST_DELAY = 15.0
FIRST_REPLY_DELAY = 30.0  # seconds at most
LARGEST_REPLY_DELAY = 480.0
Send = Callable[[Message], None]
log = logging.getLogger(__name__)


def status(
    announcement: Announcement,
    state: Literal["accepted", "declined", "progress", "failed"],
    reason: str = "",
    progress: float = 0.0,
) -> Status:
    """Return the status of an assignment; a reason that is too long for a message is cut."""
    named = round_id(announcement.run, announcement.round, announcement.attempt)
    return Status(
        version=announcement.version,
        run=announcement.run,
        round=announcement.round,
        attempt=announcement.attempt,
        state=state,
        reason=shorten(reason),
        progress=progress,
        round_id=named if state in {"declined", "failed"} else UNSET,
    )


class Outbox:
    """Publishes messages in order; those that are not accepted wait here and are retried with back-off."""

    def __init__(self, messaging: Messaging, loop: EventLoop, rng: random.Random) -> None:
        self._messaging = messaging
        self._loop = loop
        self._rng = rng
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._delays = delays(_FIRST_DELAY, _LARGEST_DELAY, rng)
        self._retrying = False

    def send(self, topic: str, message: Message) -> None:
        """Publish ``message`` now, or as soon as the connection accepts it."""
        try:
            item = (topic, encode(message))
        except MessageError as error:
            log.error("not sent to %s: %s", topic, error)  # noqa: TRY400 - one line without a traceback
            return
        if item not in self._waiting:  # a repeated reply must not pile up while the device is offline
            self._waiting.append(item)
        if not self._retrying:
            self._flush()

    def offer(self, topic: str, message: Message) -> bool:
        """Publish ``message`` now or never, without a guarantee; return whether it was accepted.

        For messages that are worthless later: heartbeats and progress. At most once, because the classic
        nucleus accepts such a message only while it is connected, and would store any other.
        """
        if self._waiting:
            return False
        try:
            payload = encode(message)
        except MessageError as error:
            log.error("not sent to %s: %s", topic, error)  # noqa: TRY400 - one line without a traceback
            return False
        return self._publish(topic, payload, AT_MOST_ONCE)

    def _flush(self) -> None:
        self._retrying = False
        while self._waiting:
            topic, payload = self._waiting[0]
            if not self._publish(topic, payload, AT_LEAST_ONCE):
                self._retrying = True
                self._loop.call_later(next(self._delays), self._flush)
                return
            self._waiting.popleft()
        self._delays = delays(_FIRST_DELAY, _LARGEST_DELAY, self._rng)

    def _publish(self, topic: str, payload: bytes, qos: int) -> bool:
        """Return False if the message has to be retried."""
        try:
            self._messaging.publish(topic, payload, qos)
        except Unavailable as error:
            log.info("not sent to %s yet: %s", topic, error)
            return False
        except Forbidden as error:
            # A retry would be refused again: the log names what the operator has to correct.
            log.error("%s", error)  # noqa: TRY400 - one line without a traceback
        return True


class Replies:
    """Publishes each completion with back-off until its verdict arrives or its deadline passes.

    A successful publish proves little: Greengrass Nucleus Lite returns before the broker has the message.
    """

    def __init__(self, loop: EventLoop, journal: Journal, send: Send, rng: random.Random) -> None:
        self._loop = loop
        self._journal = journal
        self._send = send
        self._rng = rng
        self._repeating: dict[str, Timer] = {}

    def give(self, reply: Reply, seconds_left: float) -> None:
        """Record a reply and publish it; repeat a completion for ``seconds_left``."""
        self._journal.answer(reply)
        if reply.failed:
            self._send(reply.failed)
        elif reply.completion:
            self._begin(reply.round_id, reply.completion, seconds_left)

    def again(self, reply: Reply, seconds_left: float) -> None:
        """Publish a recorded reply again, because its announcement was repeated."""
        log.info("%s: announced again: publishing the reply again", reply.round_id)
        self.give(msgspec.structs.replace(reply, settled=reply.completion is None), seconds_left)

    def resume(self) -> None:
        """After a restart: publish every completion that the cloud has sent no verdict on.

        The time of the announcement is unknown after a restart, so its deadline starts again; a reply that is
        late by then gets a verdict that names this reason.
        """
        for reply in self._journal.state.replies:
            if reply.completion and not reply.settled:
                self._begin(reply.round_id, reply.completion, reply.announcement.deadline_seconds)

    def judge(self, verdict: Verdict) -> Reply | None:
        """Apply a verdict; return the reply that it belongs to, or None."""
        reply = self._journal.reply_to(round_id(verdict.run, verdict.round, verdict.attempt))
        if reply and not reply.settled:
            self._settle(reply)
            if verdict.counted:
                log.info("%s: the cloud counted the reply", reply.round_id)
            else:
                log.warning("%s: the cloud refused the reply: %s", reply.round_id, verdict.reason)
        return reply

    def supersede(self, newer: Announcement) -> None:
        """Stop repeating the replies of earlier rounds of a run: these rounds are over."""
        for reply in self._journal.state.replies:
            if reply.announcement.run == newer.run and reply.round_id in self._repeating:
                log.info("%s: no verdict arrived, but the run has moved on", reply.round_id)
                self._settle(reply)

    def stop(self) -> None:
        """Stop repeating replies: the device has left the fleet that would send the verdicts."""
        for timer in self._repeating.values():
            timer.cancel()
        self._repeating.clear()

    def _begin(self, name: str, completion: Completion, seconds_left: float) -> None:
        if timer := self._repeating.get(name):
            timer.cancel()
        until = self._loop.clock() + seconds_left
        self._repeat(name, completion, delays(FIRST_REPLY_DELAY, LARGEST_REPLY_DELAY, self._rng), until)

    def _repeat(self, name: str, completion: Completion, pauses: Iterator[float], until: float) -> None:
        self._send(completion)
        pause = next(pauses)
        if self._loop.clock() + pause <= until:
            call = lambda: self._repeat(name, completion, pauses, until)  # noqa: E731 - a timer's call
        else:
            pause = max(0.0, until - self._loop.clock())
            call = lambda: self._give_up(name)  # noqa: E731 - a timer's call
        self._repeating[name] = self._loop.call_later(pause, call)

    def _give_up(self, name: str) -> None:
        log.warning("%s: no verdict on the reply arrived before the deadline", name)
        if reply := self._journal.reply_to(name):
            self._settle(reply)

    def _settle(self, reply: Reply) -> None:
        if timer := self._repeating.pop(reply.round_id, None):
            timer.cancel()
        self._journal.answer(msgspec.structs.replace(reply, settled=True))
