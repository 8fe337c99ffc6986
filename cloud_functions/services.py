"""The services that the cloud functions use: the ports in one bundle, and the reports to operators."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import msgspec
from msgspec import UNSET, UnsetType

from cloud_functions.device_limits import DeviceLimits
from cloud_functions.monitoring import Log, metrics_of_ended
from fedgrass.federation import messages, topics
from fedgrass.federation.aggregation.sharding_plan import Scale
from fedgrass.federation.messages import (
    RoundChange,
    RoundFigures,
    Verdict,
    message_fields,
    message_types,
    trace_context,
)
from fedgrass.federation.ports import Alarms, Bucket, DeviceDirectory, Publisher, RoundStore, ThingGroups
from fedgrass.federation.rounds import Round, State
from fedgrass.federation.runs import LIVING, Run
from fedgrass.federation.topics import Kind

_MEMORY_AT_REST = 200 * 1024**2  # bytes: the interpreter, what it imports, buffers
_LONGEST_END_TEXT = 512  # bytes of JSON: the figures of the round have to fit into the same message


@dataclass(frozen=True)
class Services:
    """The ports, the fleet's name, the cloud's clock and a log."""

    fleet: str
    rounds: RoundStore
    devices: DeviceDirectory
    thing_groups: ThingGroups
    bucket: Bucket
    publisher: Publisher
    alarms: Alarms
    now: Callable[[], int]  # milliseconds since the epoch
    log: Log
    lease_seconds: float  # the longest time that the calling worker can still run
    can_average: bool = True  # whether this worker may read updates and drafts, and so average
    scale: Scale = field(default_factory=Scale)  # the sizes from which averaging is divided
    memory_bytes: int = 10_240 * 1024**2  # of this worker
    useless_messages: DeviceLimits = field(default_factory=DeviceLimits.of_messages)
    hellos: DeviceLimits = field(default_factory=DeviceLimits.of_hellos)
    log_requests: DeviceLimits = field(default_factory=DeviceLimits.of_log_requests)

    @property
    def largest_held(self) -> int:
        """The size in bytes of the largest model that this worker can hold along with another made of it."""
        return max(0, self.memory_bytes - _MEMORY_AT_REST) // 2

    def too_large(self, why: str, size: int) -> str:
        """Return the message that a model of ``size`` bytes is too large to be held, and what to do.

        ``why`` is a clause with the reason why it has to be held.
        """
        return (
            f"{why}, for which a function holds the whole model in memory: it has {size:,} bytes, and a"
            f" function with {self.memory_bytes // 1024**2:,} MB of memory can hold {self.largest_held:,}."
            " Give the function more memory (template.yaml), or leave the model in float32 and start from a"
            " file (--model)"
        )

    def living_runs(self) -> Iterator[tuple[Run, Round | None]]:
        """Yield each living run with its newest round."""
        for name in self.rounds.living():
            run = self.rounds.run(name)
            if run and run.state in LIVING:
                yield run, self.rounds.round(name, run.round, run.attempt) if run.round else None

    def open_rounds(self) -> Iterator[Round]:
        """Yield the OPEN rounds of living runs: the newest one, or several of a run with a ServerApp."""
        for run, newest in self.living_runs():
            rounds = self.unpublished(run) if run.settings.has_server_app else [newest]
            yield from (round_ for round_ in rounds if round_ and round_.state is State.OPEN)

    def unpublished(self, run: Run) -> Iterator[Round]:
        """Return the rounds of a run with a ServerApp after the last one that is noted as ended."""
        if run.published >= run.round:
            return iter(())
        return self.rounds.rounds_from(run.name, run.published + 1, run.round)

    def version_for(self, device: str) -> int:
        """Return the newest version of messages that both the cloud and a device support."""
        if len(message_types.SPOKEN) == 1:
            return message_types.SPOKEN[0]  # the devices table need not be read
        found = self.devices.find(device)
        supported = found.speaks if found else message_types.FIRST
        return message_types.newest_common(supported) or message_types.SPOKEN[-1]

    def trace_of(self, run: Run, open_round: Round) -> str | UnsetType:
        """Return the trace context of a round's announcements; UNSET if the run has no traces."""
        if not run.settings.trace:
            return UNSET
        number, attempt, opened_at = open_round.number, open_round.attempt, open_round.opened_at
        trace = trace_context.trace_id(self.fleet, run.name, number, attempt, opened_at)
        return trace_context.traceparent(trace)

    def send_verdict(
        self, round_: Round, device: str, refused: str = "", *, answers: tuple[int, int] | None = None
    ) -> None:
        """Send a device the verdict on its reply to a round: counted, or refused with a reason.

        ``answers`` is the round and the attempt of the announcement that it answers, if not of this round.

        The device repeats its reply until it has the first verdict. A later refusal makes it roll back what
        it has kept of the update.
        """
        verdict = Verdict(
            version=self.version_for(device),
            run=round_.run,
            round=answers[0] if answers else round_.number,
            attempt=answers[1] if answers else round_.attempt,
            counted=not refused,
            reason=message_fields.shorten(refused),
        )
        self.publisher.publish([self._to_device(device, verdict)])

    def send_counted(self, round_: Round, devices: Sequence[str]) -> None:
        """Send each of some devices the verdict that its reply to a round was counted."""
        run, number, attempt = round_.run, round_.number, round_.attempt
        verdicts = [
            Verdict(version=self.version_for(device), run=run, round=number, attempt=attempt, counted=True)
            for device in devices
        ]
        self.publisher.publish(list(map(self._to_device, devices, verdicts)))

    def _to_device(self, device: str, verdict: Verdict) -> tuple[str, bytes]:
        return topics.of_device(self.fleet, device, Kind.ANNOUNCE), messages.encode(verdict)

    def report(self, round_: Round, text: str, *, device: str = "") -> None:
        """Report a change of a round in one line: in the log, and on the run's topic."""
        change = RoundChange(
            run=round_.run,
            round=round_.number,
            attempt=round_.attempt,
            state=round_.state,
            device=device,
            text=message_fields.shorten(text),
        )
        self.publish_change(change)

    def report_end(self, round_: Round, text: str) -> None:
        """Report that a round closed or was abandoned, with its figures, and record its metrics."""
        change = RoundChange(
            run=round_.run,
            round=round_.number,
            attempt=round_.attempt,
            state=round_.state,
            text=message_fields.shorten_to_bytes(text, _LONGEST_END_TEXT),
            figures=_figures(round_),
        )
        self.publish_change(change)
        with self.log.about(round_.run, round_.number):
            for metric, value in metrics_of_ended(round_):
                self.log.measure(metric, value)

    def publish_change(self, change: RoundChange) -> None:
        """Log a change and publish it on the run's topic."""
        with self.log.about(change.run, change.round, change.device):
            self.log(f"{messages.round_id(change.run, change.round, change.attempt)} {change.text}")
        self.publisher.publish([(topics.of_run(self.fleet, change.run), messages.encode(change))])


def _figures(round_: Round) -> RoundFigures:
    # The message of one device has at most 24 metrics, but all devices together may report more names.
    metrics = dict(sorted(round_.metrics.items())[: message_fields.MOST_METRICS])
    figures = RoundFigures(
        asked=round_.asked,
        accepted=round_.accepted,
        declined=round_.declined,
        failed=round_.failed,
        silent=round_.silent,
        late=round_.late,
        refused=round_.refused,
        replied=round_.replied,
        needed=round_.needed,
        bytes_up=min(round_.bytes_up, message_fields.LARGEST_NUMBER),
        bytes_down=min(round_.bytes_down, message_fields.LARGEST_NUMBER),
        opening_seconds=max(0.0, round_.opening_seconds),
        averaging_seconds=max(0.0, round_.averaging_seconds),
        metrics=metrics,
        metrics_left_out=round_.metrics_left_out + len(round_.metrics) - len(metrics),
        capped=round_.capped or UNSET,
    )
    if not round_.in_flight:
        return figures
    return msgspec.structs.replace(
        figures,
        in_flight_before=round_.in_flight_before,
        overdue=round_.overdue,
        stale=round_.stale,
        wasted=round_.wasted,
        staleness_mean=round_.staleness_mean,
        staleness_max=round_.staleness_max,
    )
