"""The session: what the device publishes and decides, independent of any SDK.

    start         subscribe, publish a hello and heartbeats (presence.py)
    announcement  accept or decline (eligibility.py); train and upload (assignment.py)
    reply         publish a completion until its verdict arrives, a failure once (outbox.py)

All of it runs in the thread of the event loop.
"""

import logging
from collections.abc import Callable
from pathlib import Path

from components.runtime.component_errors import ConfigurationError
from components.runtime.event_loop import Timer
from components.trainer.session.assignment import Assignment
from components.trainer.session.device_context import DeviceContext, fit_heartbeat
from components.trainer.session.eligibility import demand_of, objection
from components.trainer.session.journal import Accepted, Reply, known_metrics, published_result
from components.trainer.session.outbox import Outbox, Replies, status
from components.trainer.session.presence import Presence, PresenceCallbacks
from components.trainer.session.session_ports import Messaging
from components.trainer.session.task_readiness import TaskReadiness
from components.trainer.trainer_configuration import Configuration
from components.trainer.worker.worker_protocol import Result, TaskOptions, id_of
from fedgrass.federation.errors import MessageError
from fedgrass.federation.messages import (
    Announcement,
    Completion,
    Heartbeat,
    LogRequest,
    Message,
    Verdict,
    decode_announce,
    message_types,
    round_id,
)
from fedgrass.federation.messages.message_fields import Attributes
from fedgrass.federation.task_messages.round_messages import BUSY
from fedgrass.federation.topics import Kind

_PROGRESS_SECONDS = 5.0  # between two progress messages
log = logging.getLogger(__name__)


class Session:
    """One device in its fleet: answers announcements over a :class:`Messaging`."""

    def __init__(  # noqa: PLR0913 - the last two are callbacks of its host, by keyword
        self,
        context: DeviceContext,
        messaging: Messaging,
        configuration: Configuration,
        version: str = "",
        *,
        ready: Callable[[], None] = lambda: None,
        connection_trouble: Callable[[], str] = str,
        readiness: TaskReadiness | None = None,
    ) -> None:
        """Prepare the session; :meth:`start` begins it.

        Args:
            context: long-lived dependencies of assignments.
            messaging: the connection to AWS IoT Core.
            configuration: the trainer's configuration, until :meth:`configure`.
            version: of the component, for hellos and heartbeats.
            ready: called once the device has subscribed to its topics.
            connection_trouble: returns what disturbs the connection; empty if nothing does.
            readiness: whether the code of the tasks is there.
        """
        self._context = context
        self._configuration = configuration
        self._configuration_error = ""  # why a changed configuration could not be used
        self._version = version
        self._connection_trouble = connection_trouble
        self._readiness = readiness or TaskReadiness()
        self._started_at = context.loop.clock()
        self._outbox = Outbox(messaging, context.loop, context.rng)
        self._replies = Replies(context.loop, context.journal, self._send, context.rng)
        callbacks = PresenceCallbacks(
            announced=self._on_message,
            heartbeat=self._heartbeat,
            interval=lambda: self._configuration.heartbeat_seconds,
            ready=ready,
            working=lambda: self._assignment is not None,
            restart_budget=context.restart_budget,
        )
        self._presence = Presence(context.loop, messaging, self._outbox, context.rng, callbacks)
        self._assignment: Assignment | None = None
        self._idle_timer: Timer | None = None  # ends the worker once it has been idle for long enough
        self._last_progress = float("-inf")

    def start(self) -> None:
        """Enter the fleet, and resume what an earlier process left."""
        self._context.journal.enter(self._configuration.fleet)
        self._presence.enter(self._configuration.fleet, self._context.thing)
        self._resume()

    def configure(self, configuration: Configuration) -> None:
        """Apply another configuration without a restart."""
        former, self._configuration = self._configuration, configuration
        self._configuration_error = ""
        if configuration.fleet != former.fleet:
            self._drop(f"the device moves to fleet {configuration.fleet}")
            self._replies.stop()
            self._context.journal.enter(configuration.fleet)
            self._presence.enter(configuration.fleet, self._context.thing)

    def refuse_configuration(self, reason: str) -> None:
        """Keep the current configuration, and report in heartbeats why the changed one cannot be used."""
        self._configuration_error = fit_heartbeat(reason)

    def subscription_lost(self, topic: str, reason: str) -> None:
        """Request a subscription again that the connection has lost."""
        self._presence.lost(topic, reason)

    @property
    def work_in_progress(self) -> str:
        """The id of the attempt that is being trained or uploaded; empty if there is none."""
        return self._assignment.name if self._assignment else ""

    @property
    def configuration(self) -> Configuration:
        """The current configuration."""
        return self._configuration

    def _resume(self) -> None:
        """Upload an update that was already written; an interrupted training waits for its announcement."""
        work = self._with_result(self._context.journal.state.work)
        path = self._context.update_path(work.announcement) if work else None
        usable = work and work.result and path and _is_complete(work.result, path)
        self._context.sweep(keep=path if usable else None)
        self._replies.resume()
        if work and work.result and usable:
            log.info(
                "%s: %s",
                id_of(work.announcement),
                "the update was written before the restart: uploading it"
                if work.result.bytes
                else "done before the restart: sending the result",
            )
            self._assignment = self._assign(work.announcement)
            self._assignment.resume(work.result)
        elif work:
            log.info("%s: the restart interrupted its training", id_of(work.announcement))
            self._context.journal.take(None)

    def _with_result(self, work: Accepted | None) -> Accepted | None:
        """Return the recorded assignment with its result, even if the journal lacks that."""
        if work is None or work.result:
            return work
        made = published_result(self._context.update_path(work.announcement), work.announcement)
        if made is None:
            return work
        self._context.journal.record_result(work.announcement, made)
        return self._context.journal.state.work

    def _on_message(self, payload: bytes) -> None:
        try:
            message = decode_announce(payload)
        except MessageError as error:
            log.warning("dropped a message: %s", error)
            return
        if isinstance(message, LogRequest):
            self._context.send_log(message)
        elif isinstance(message, Verdict):
            self._on_verdict(message)
        else:
            self._on_announcement(message)

    def _on_verdict(self, verdict: Verdict) -> None:
        name = round_id(verdict.run, verdict.round, verdict.attempt)
        if not verdict.counted:
            self._context.take_back(verdict)
        if self._assignment and self._assignment.name == name:
            # The journal was lost after the reply, or the round is over: the work would be useless.
            self._drop(f"the cloud has sent its verdict: {verdict.reason or 'counted'}")
        elif not self._replies.judge(verdict):
            log.info("%s: dropped a verdict on an unknown reply", name)

    def _on_announcement(self, announcement: Announcement) -> None:
        name = id_of(announcement)
        if self._assignment and self._assignment.name == name:
            log.info("%s: announced again while in progress", name)
            self._assignment.hurry(announcement.deadline_seconds)
        elif reply := self._context.journal.reply_to(name):
            self._replies.again(reply, announcement.deadline_seconds)
        elif self._is_stale(announcement):
            log.info("%s: dropped: the run has moved on", name)
        elif reason := self._refusal(announcement):
            self._decline(announcement, reason)
        else:
            self._begin(announcement)

    def _is_stale(self, announcement: Announcement) -> bool:
        """Return whether a later round or attempt of the same run is known."""
        known = [reply.announcement for reply in self._context.journal.state.replies]
        known += [self._assignment.announcement] if self._assignment else []
        return any(
            other.run == announcement.run
            and (other.round, other.attempt) > (announcement.round, announcement.attempt)
            for other in known
        )

    def _refusal(self, announcement: Announcement) -> str:
        """Return why the assignment is declined; empty if it is accepted."""
        if announcement.task not in self._configuration.tasks:
            return f"this device has the tasks: {', '.join(sorted(self._configuration.tasks)) or 'none'}"
        if announcement.work == "statistics" and not self._configuration.statistics.allowed:
            return "this device answers no statistics: its configuration has statistics.allowed false"
        if self._assignment and self._assignment.announcement.run != announcement.run:
            return f"{BUSY}{self._assignment.name}"
        return objection(
            self._configuration.train_when,
            self._context.host_metrics(self._context.folder),
            self._attributes(),
            demand_of(announcement),
            self._configuration.memory_megabytes,
        )

    def _decline(self, announcement: Announcement, reason: str) -> None:
        log.info("%s: declined: %s", id_of(announcement), reason)
        self._send(status(announcement, "declined", reason))

    def _begin(self, announcement: Announcement) -> None:
        """Accept the assignment if the code of its task is there, or decline it."""
        name = announcement.task
        try:
            options, packages = self._readiness.ready(name, self._configuration.tasks[name])
        except ConfigurationError as error:
            self._decline(announcement, str(error))
        else:
            self._accept(announcement, options, packages)

    def _accept(self, announcement: Announcement, options: TaskOptions, packages: str) -> None:
        self._drop(f"replaced by {id_of(announcement)}")
        self._replies.supersede(announcement)
        self._context.sweep()
        if self._idle_timer:
            self._idle_timer.cancel()
        log.info("%s: accepted: %s %s", id_of(announcement), announcement.work, announcement.task)
        self._last_progress = self._context.loop.clock()
        self._assignment = self._assign(announcement, options)
        # The worker first: it starts while the message is being sent.
        self._assignment.begin(options, packages, self._configuration.statistics)
        self._send(status(announcement, "accepted"))

    def _assign(self, announcement: Announcement, options: TaskOptions | None = None) -> Assignment:
        return Assignment(
            self._context,
            announcement,
            self._finished,
            progress=lambda fraction: self._progressed(announcement, fraction),
            unloadable=lambda reason: self._readiness.cannot_be_loaded(
                announcement.task, options or {}, reason
            ),
            code=self._readiness.code(announcement.task, self._version),
        )

    def _finished(self, reply: Reply, seconds_left: float) -> None:
        self._assignment = None
        # The reply is recorded before the update is removed: a crash in between must not lose the work.
        self._replies.give(reply, seconds_left)
        self._context.discard(reply.announcement)
        self._keep_warm()

    def _drop(self, reason: str) -> None:
        """Cancel the assignment in progress, if there is one."""
        if not self._assignment:
            return
        log.info("%s: dropped: %s", self._assignment.name, reason)
        self._assignment.cancel()
        self._context.discard(self._assignment.announcement)
        self._assignment = None
        self._context.journal.take(None)
        self._keep_warm()

    def _keep_warm(self) -> None:
        self._idle_timer = self._context.loop.call_later(self._configuration.warm_seconds, self._end_worker)

    def _end_worker(self) -> None:
        self._context.worker.stop()
        self._context.sweep()

    def _progressed(self, announcement: Announcement, fraction: float) -> None:
        now = self._context.loop.clock()
        if now - self._last_progress >= _PROGRESS_SECONDS:
            self._last_progress = now
            message = status(announcement, "progress", progress=fraction)
            self._outbox.offer(self._presence.topic(Kind.STATUS), message)

    def _heartbeat(self) -> Heartbeat:
        configured = self._configuration.tasks
        examples, tasks = self._context.journal.state.examples, self._readiness.present(configured)
        return Heartbeat(
            state="working" if self._assignment else "idle",
            tasks=",".join(tasks),
            examples=sum(examples.get(task, 0) for task in tasks),
            component_version=self._version,
            uptime_seconds=round(self._context.loop.clock() - self._started_at, 1),
            attributes=self._attributes(),
            metrics=known_metrics(self._context.journal.state, tasks),
            configuration_error=self._configuration_error
            or fit_heartbeat(self._readiness.trouble(configured)),
            work_error=self._context.trouble.reason,
            connection_error=fit_heartbeat(self._presence.trouble() or self._connection_trouble()),
            speaks=message_types.spoken(),
            works=message_types.known_work(),
        )

    def _attributes(self) -> Attributes:
        # Attributes that the operator configured take precedence over measured ones.
        found = {**self._context.measure(), **self._configuration.attributes}
        return {**self._readiness.versions(self._configuration.tasks, len(found)), **found}

    def _send(self, message: Message) -> None:
        kind = Kind.COMPLETE if isinstance(message, Completion) else Kind.STATUS
        self._outbox.send(self._presence.topic(kind), message)


def _is_complete(result: Result, update: Path) -> bool:
    """Return whether a result has everything that its reply needs: nothing more, or its whole update."""
    return not result.bytes or (update.exists() and update.stat().st_size == result.bytes)
