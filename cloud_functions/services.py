"""The services that the cloud functions work with: the ports in one bundle, and the messages to operators."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from msgspec import UNSET

from cloud_functions.device_limits import DeviceLimits
from cloud_functions.monitoring import Log, of_ended
from fedgrass.federation import messages, topics
from fedgrass.federation.aggregation.sharding_plan import Scale
from fedgrass.federation.messages import RoundChange, RoundFigures, message_fields, message_versions
from fedgrass.federation.ports import Alarms, Bucket, DeviceDirectory, Publisher, RoundStore, ThingGroups
from fedgrass.federation.rounds import Round, State
from fedgrass.federation.runs import LIVING, Run

_MEMORY_AT_REST = 200 * 1024**2  # bytes: the interpreter, what it imports, buffers
_LONGEST_LAST_WORD = 512  # bytes of JSON, of a line beside which the figures have to fit


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
    lease_seconds: float  # how long the worker that calls can live at most
    averages: bool = True  # whether this worker may read updates and drafts; otherwise another one averages
    scale: Scale = field(default_factory=Scale)  # from which sizes on averaging is divided
    memory_bytes: int = 10_240 * 1024**2  # that this worker has
    useless_messages: DeviceLimits = field(default_factory=DeviceLimits.of_messages)
    hellos: DeviceLimits = field(default_factory=DeviceLimits.of_hellos)

    @property
    def largest_held(self) -> int:
        """The bytes of the largest model of which this worker can hold the file and another made of it."""
        return max(0, self.memory_bytes - _MEMORY_AT_REST) // 2

    def living_runs(self) -> Iterator[tuple[Run, Round | None]]:
        """Return each living run with its newest round."""
        for name in self.rounds.living():
            run = self.rounds.run(name)
            if run and run.state in LIVING:
                yield run, self.rounds.round(name, run.round, run.attempt) if run.round else None

    def open_rounds(self) -> Iterator[tuple[Run, Round]]:
        """Return the newest round of each living run, where that is OPEN."""
        for run, newest in self.living_runs():
            if newest and newest.state is State.OPEN:
                yield run, newest

    def version_for(self, device: str) -> int:
        """Return the version of messages in which a device is told of work: the newest that it speaks too."""
        if len(message_versions.SPOKEN) == 1:
            return message_versions.SPOKEN[0]  # no table has to be read
        found = self.devices.find(device)
        theirs = found.speaks if found else message_versions.FIRST
        return message_versions.newest_common(theirs) or message_versions.SPOKEN[-1]

    def tell(self, of: Round, text: str, *, device: str = "") -> None:
        """Say a change of a round in one line, to the log and to the people who watch the run's topic."""
        change = RoundChange(
            run=of.run,
            round=of.number,
            attempt=of.attempt,
            state=of.state,
            device=device,
            text=message_fields.shorten(text),
        )
        self.say(change)

    def tell_end(self, of: Round, text: str) -> None:
        """Say that a round closed or was abandoned, with its figures, and measure it."""
        change = RoundChange(
            run=of.run,
            round=of.number,
            attempt=of.attempt,
            state=of.state,
            text=message_fields.shorten_to_bytes(text, _LONGEST_LAST_WORD),
            figures=_figures(of),
        )
        self.say(change)
        with self.log.about(of.run, of.number):
            for metric, value in of_ended(of):
                self.log.measure(metric, value)

    def say(self, change: RoundChange) -> None:
        """Say what is to be said of a run."""
        who = f" {change.device}:" if change.device else ""
        with self.log.about(change.run, change.round, change.device):
            self.log(f"{messages.round_id(change.run, change.round, change.attempt)}{who} {change.text}")
        self.publisher.publish([(topics.of_run(self.fleet, change.run), messages.encode(change))])


def _figures(of: Round) -> RoundFigures:
    # Of each device a message brings 24 metrics at most, but all devices together may have more names.
    metrics = dict(sorted(of.metrics.items())[: message_fields.MOST_METRICS])
    return RoundFigures(
        asked=of.asked,
        accepted=of.accepted,
        declined=of.declined,
        failed=of.failed,
        silent=of.silent,
        late=of.late,
        refused=of.refused,
        replied=of.replied,
        needed=of.needed,
        bytes_up=min(of.bytes_up, message_fields.LARGEST_NUMBER),
        bytes_down=min(of.bytes_down, message_fields.LARGEST_NUMBER),
        opening_seconds=max(0.0, of.opening_seconds),
        averaging_seconds=max(0.0, of.averaging_seconds),
        metrics=metrics,
        metrics_left_out=of.metrics_left_out + len(of.metrics) - len(metrics),
        capped=of.capped or UNSET,
    )
