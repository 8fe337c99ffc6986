"""The session: what the device publishes and decides, independent of any SDK.

    start         subscribe, hello, heartbeats (presence.py)
    announcement  accepted or declined (eligibility.py); worker and upload (assignment.py)
    reply         complete or failed, published again until the verdict (outbox.py)

All of it runs in one thread, the event loop's.
"""

import logging
from collections.abc import Callable

from components.runtime.event_loop import Timer
from components.trainer.session.assignment import Assignment
from components.trainer.session.device_context import DeviceContext
from components.trainer.session.eligibility import demand_of, objection
from components.trainer.session.journal import Accepted, Reply, finished, known_metrics
from components.trainer.session.outbox import Outbox, Replies, status
from components.trainer.session.presence import Presence, PresenceCallbacks
from components.trainer.session.session_ports import Messaging
from components.trainer.trainer_configuration import Configuration
from components.trainer.worker.worker_protocol import id_of
from fedgrass.federation.errors import MessageError
from fedgrass.federation.messages import (
    Announcement,
    Completion,
    Heartbeat,
    Message,
    Verdict,
    decode_announce,
    message_versions,
    round_id,
)
from fedgrass.federation.messages.message_fields import Attributes, shorten, shorten_to_bytes
from fedgrass.federation.topics import Kind

PROGRESS_SECONDS = 5.0  # between two messages of progress
LONGEST_REFUSAL = 200  # characters, as a heartbeat takes
log = logging.getLogger(__name__)


class Session:
    """One device's part in the federation, over whatever :class:`Messaging` brings its messages."""

    def __init__(  # noqa: PLR0913 - the last two are what its host has to tell and to be told
        self,
        workplace: DeviceContext,
        messaging: Messaging,
        configuration: Configuration,
        version: str = "",
        *,
        ready: Callable[[], None] = lambda: None,
        connection_trouble: Callable[[], str] = str,
    ) -> None:
        self._place = workplace
        self._configuration = configuration
        self._refused = ""  # why a changed configuration could not be used
        self._version = version
        self._connection_trouble = connection_trouble  # what the adapter knows of; empty: nothing
        self._started_at = workplace.loop.clock()
        self._outbox = Outbox(messaging, workplace.loop, workplace.rng)
        self._replies = Replies(workplace.loop, workplace.journal, self._send, workplace.rng)
        face = PresenceCallbacks(
            announced=self._heard,
            heartbeat=self._heartbeat,
            interval=lambda: self._configuration.heartbeat_seconds,
            ready=ready,
            working=lambda: self._assignment is not None,
            exits=workplace.exits,
        )
        self._presence = Presence(workplace.loop, messaging, self._outbox, workplace.rng, face)
        self._assignment: Assignment | None = None
        self._cooling: Timer | None = None  # ends the worker once it has been idle for long enough
        self._last_progress = float("-inf")

    def start(self) -> None:
        """Enter the fleet, and take up what a former process left."""
        self._place.journal.enter(self._configuration.fleet)
        self._presence.enter(self._configuration.fleet, self._place.thing)
        self._resume()

    def configure(self, configuration: Configuration) -> None:
        """Work by another configuration from now on, with no restart."""
        former, self._configuration = self._configuration, configuration
        self._refused = ""
        if configuration.fleet != former.fleet:
            self._drop(f"the device moves to fleet {configuration.fleet}")
            self._replies.stop()
            self._place.journal.enter(configuration.fleet)
            self._presence.enter(configuration.fleet, self._place.thing)

    def refuse_configuration(self, reason: str) -> None:
        """Go on as before, and let heartbeats say why a changed configuration could not be used."""
        self._refused = _fitting(reason)

    def subscription_lost(self, topic: str, reason: str) -> None:
        """Take note that the connection has lost a subscription."""
        self._presence.lost(topic, reason)

    @property
    def work_in_hand(self) -> str:
        """The attempt that is trained or uploaded now; empty if there is none."""
        return self._assignment.name if self._assignment else ""

    @property
    def configuration(self) -> Configuration:
        """The configuration by which the device works now."""
        return self._configuration

    def _resume(self) -> None:
        """Go on with an update that was written; training that was cut short waits for its announcement."""
        work = self._written(self._place.journal.state.work)
        path = self._place.update_path(work.announcement) if work else None
        usable = work and work.result and path and path.exists() and path.stat().st_size == work.result.bytes
        self._place.sweep(keep=path if usable else None)
        self._replies.resume()
        if work and work.result and usable:
            log.info("%s: the update was written before the restart: uploading it", id_of(work.announcement))
            self._assignment = self._assign(work.announcement)
            self._assignment.resume(work.result)
        elif work:
            log.info("%s: the restart cut its training short", id_of(work.announcement))
            self._place.journal.take(None)

    def _written(self, work: Accepted | None) -> Accepted | None:
        """Return the work in hand with its result, also if the journal was not told of that any more."""
        if work is None or work.result:
            return work
        made = finished(self._place.update_path(work.announcement), work.announcement)
        if made is None:
            return work
        self._place.journal.finish(work.announcement, made)
        return self._place.journal.state.work

    def _heard(self, payload: bytes) -> None:
        try:
            message = decode_announce(payload)
        except MessageError as error:
            log.warning("dropped a message: %s", error)
            return
        if isinstance(message, Verdict):
            self._judged(message)
        else:
            self._offered(message)

    def _judged(self, verdict: Verdict) -> None:
        name = round_id(verdict.run, verdict.round, verdict.attempt)
        if not verdict.counted:
            self._place.memory.take_back(self._place.update_path(verdict), verdict.run)
        if self._assignment and self._assignment.name == name:
            # The journal was lost after the reply, or the round is over: more work on it is of no use.
            self._drop(f"the cloud has given its verdict: {verdict.reason or 'counted'}")
        elif not self._replies.heard(verdict):
            log.info("%s: a verdict on a reply that is not known here", name)

    def _offered(self, work: Announcement) -> None:
        name = id_of(work)
        if self._assignment and self._assignment.name == name:
            log.info("%s: announced again while it is worked on", name)
            self._assignment.hurry(work.deadline_seconds)
        elif reply := self._place.journal.reply_to(name):
            self._replies.again(reply, work.deadline_seconds)
        elif self._is_stale(work):
            log.info("%s: dropped, since the run has moved on", name)
        elif reason := self._refusal(work):
            log.info("%s: declined: %s", name, reason)
            self._send(status(work, "declined", reason))
        else:
            self._accept(work)

    def _is_stale(self, work: Announcement) -> bool:
        """Whether a later round or attempt of the same run is known."""
        known = [reply.announcement for reply in self._place.journal.state.replies]
        known += [self._assignment.announcement] if self._assignment else []
        return any(
            other.run == work.run and (other.round, other.attempt) > (work.round, work.attempt)
            for other in known
        )

    def _refusal(self, work: Announcement) -> str:
        """Return why the work is declined; empty if it is not."""
        if work.task not in self._configuration.tasks:
            return f"this device has the tasks: {', '.join(sorted(self._configuration.tasks)) or 'none'}"
        if self._assignment and self._assignment.announcement.run != work.run:
            return f"busy with {self._assignment.name}"
        return objection(
            self._configuration.train_when,
            self._place.surroundings(self._place.folder),
            self._attributes(),
            demand_of(work),
            self._configuration.memory_megabytes,
        )

    def _accept(self, work: Announcement) -> None:
        self._drop(f"{id_of(work)} takes its place")
        self._replies.supersede(work)
        self._place.sweep()
        if self._cooling:
            self._cooling.cancel()
        log.info("%s: accepted: %s %s", id_of(work), work.work, work.task)
        self._last_progress = self._place.loop.clock()
        self._assignment = self._assign(work)
        # The worker first: it starts in parallel, while the message goes out.
        self._assignment.begin(self._configuration.tasks[work.task])
        self._send(status(work, "accepted"))

    def _assign(self, work: Announcement) -> Assignment:
        return Assignment(
            self._place, work, self._finished, progress=lambda fraction: self._progressed(work, fraction)
        )

    def _finished(self, reply: Reply, seconds_left: float) -> None:
        self._assignment = None
        # The reply is written down before the update goes: a crash in between must not cost the work.
        self._replies.give(reply, seconds_left)
        self._place.discard(reply.announcement)
        self._cool()

    def _drop(self, reason: str) -> None:
        """Give up the work in hand, if there is any."""
        if not self._assignment:
            return
        log.info("%s: dropped: %s", self._assignment.name, reason)
        self._assignment.cancel()
        self._place.discard(self._assignment.announcement)
        self._assignment = None
        self._place.journal.take(None)
        self._cool()

    def _cool(self) -> None:
        if self._cooling:
            self._cooling.cancel()
        self._cooling = self._place.loop.call_later(self._configuration.warm_seconds, self._idle)

    def _idle(self) -> None:
        self._place.worker.stop()
        self._place.sweep()

    def _progressed(self, work: Announcement, fraction: float) -> None:
        now = self._place.loop.clock()
        if now - self._last_progress >= PROGRESS_SECONDS:
            self._last_progress = now
            message = status(work, "progress", progress=fraction)
            self._outbox.offer(self._presence.topic(Kind.STATUS), message)

    def _heartbeat(self) -> Heartbeat:
        examples, tasks = self._place.journal.state.examples, sorted(self._configuration.tasks)
        return Heartbeat(
            state="working" if self._assignment else "idle",
            tasks=",".join(tasks),
            examples=sum(examples.get(task, 0) for task in tasks),
            component_version=self._version,
            uptime_seconds=round(self._place.loop.clock() - self._started_at, 1),
            attributes=self._attributes(),
            metrics=known_metrics(self._place.journal.state, tasks),
            configuration_error=self._refused,
            work_error=self._place.trouble.reason,
            connection_error=_fitting(self._presence.trouble() or self._connection_trouble()),
            speaks=message_versions.spoken(),
        )

    def _attributes(self) -> Attributes:
        # What the operator says of a device counts more than what it finds out.
        return {**self._place.measure(), **self._configuration.attributes}

    def _send(self, message: Message) -> None:
        kind = Kind.COMPLETE if isinstance(message, Completion) else Kind.STATUS
        self._outbox.send(self._presence.topic(kind), message)


def _fitting(reason: str) -> str:
    """Return a reason cut to what a heartbeat takes."""
    return shorten_to_bytes(shorten(reason, LONGEST_REFUSAL), LONGEST_REFUSAL + 40)
