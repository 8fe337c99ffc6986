"""Replies, said again until the cloud has given its verdict on them."""

import logging
import random
from collections.abc import Callable, Iterator

import msgspec

from components.trainer.backoff import delays
from components.trainer.events import EventLoop, Timer
from components.trainer.journal import Journal, Reply
from fedgrass.federation.messages import Announcement, Completion, Message, Verdict, round_id

FIRST_DELAY = 30.0  # seconds at most
LARGEST_DELAY = 480.0
log = logging.getLogger(__name__)
Send = Callable[[Message], None]


class Replies:
    """Sends each completion, and again with back-off until its verdict comes or its deadline is past.

    A publish that succeeded says little: Greengrass Nucleus Lite returns before the broker has the message.
    """

    def __init__(self, loop: EventLoop, journal: Journal, send: Send, rng: random.Random) -> None:
        self._loop = loop
        self._journal = journal
        self._send = send
        self._rng = rng
        self._repeating: dict[str, Timer] = {}

    def give(self, reply: Reply, seconds_left: float) -> None:
        """Write a reply down and send it; a completion is repeated for ``seconds_left``."""
        self._journal.answer(reply)
        if reply.failed:
            self._send(reply.failed)
        elif reply.completion:
            self._begin(reply.round_id, reply.completion, seconds_left)

    def again(self, reply: Reply, seconds_left: float) -> None:
        """Send a reply that was given before, since its announcement came again."""
        log.info("%s: announced again: the reply is sent again", reply.round_id)
        self.give(msgspec.structs.replace(reply, settled=reply.completion is None), seconds_left)

    def resume(self) -> None:
        """After a restart: send every completion that the cloud has not given its verdict on.

        How long ago the announcement came is not known any more, so its deadline begins anew; what is
        refused as late then is refused by name.
        """
        for reply in self._journal.state.replies:
            if reply.completion and not reply.settled:
                self._begin(reply.round_id, reply.completion, reply.announcement.deadline_seconds)

    def heard(self, verdict: Verdict) -> Reply | None:
        """Take a verdict; return the reply that it is on, None if there is no such reply."""
        reply = self._journal.reply_to(round_id(verdict.run, verdict.round, verdict.attempt))
        if reply and not reply.settled:
            self._settle(reply)
            if verdict.counted:
                log.info("%s: the cloud counted the reply", reply.round_id)
            else:
                log.warning("%s: the cloud refused the reply: %s", reply.round_id, verdict.reason)
        return reply

    def supersede(self, newer: Announcement) -> None:
        """Stop repeating what was said in earlier rounds of a run: they are over."""
        for reply in self._journal.state.replies:
            if reply.announcement.run == newer.run and reply.round_id in self._repeating:
                log.info("%s: no verdict came, but the run has moved on", reply.round_id)
                self._settle(reply)

    def stop(self) -> None:
        """Repeat no reply any more: the device has left the fleet that would give the verdict."""
        for timer in self._repeating.values():
            timer.cancel()
        self._repeating.clear()

    def _begin(self, name: str, completion: Completion, seconds_left: float) -> None:
        if timer := self._repeating.get(name):
            timer.cancel()
        until = self._loop.clock() + seconds_left
        self._say(name, completion, delays(FIRST_DELAY, LARGEST_DELAY, self._rng), until)

    def _say(self, name: str, completion: Completion, pauses: Iterator[float], until: float) -> None:
        self._send(completion)
        pause = next(pauses)
        if self._loop.clock() + pause <= until:
            call = lambda: self._say(name, completion, pauses, until)  # noqa: E731 - a timer's call
        else:
            pause = max(0.0, until - self._loop.clock())
            call = lambda: self._give_up(name)  # noqa: E731
        self._repeating[name] = self._loop.call_later(pause, call)

    def _give_up(self, name: str) -> None:
        log.warning("%s: no verdict on the reply came before the deadline", name)
        if reply := self._journal.reply_to(name):
            self._settle(reply)

    def _settle(self, reply: Reply) -> None:
        if timer := self._repeating.pop(reply.round_id, None):
            timer.cancel()
        self._journal.answer(msgspec.structs.replace(reply, settled=True))
