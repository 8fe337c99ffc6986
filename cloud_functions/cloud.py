"""What the cloud functions work with: the ports in one bundle, and the one voice that tells people."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from fedgrass.federation import messages, topics
from fedgrass.federation.division import Scale
from fedgrass.federation.messages import RoundChange
from fedgrass.federation.ports import Alarms, Bucket, DeviceDirectory, Publisher, RoundStore, ThingGroups
from fedgrass.federation.rounds import Round, State
from fedgrass.federation.runs import LIVING, Run


@dataclass(frozen=True)
class Cloud:
    """The ports, the fleet's name, the cloud's clock and a log."""

    fleet: str
    rounds: RoundStore
    devices: DeviceDirectory
    thing_groups: ThingGroups
    bucket: Bucket
    publisher: Publisher
    alarms: Alarms
    now: Callable[[], int]  # milliseconds since the epoch
    log: Callable[[str], None]
    lease_seconds: float  # how long the worker that calls can live at most
    scale: Scale = field(default_factory=Scale)  # from which sizes on averaging is divided

    def open_rounds(self) -> Iterator[tuple[Run, Round]]:
        """Return the newest round of each living run, where that is OPEN."""
        for name, state in self.rounds.runs().items():
            run = self.rounds.run(name) if state in LIVING else None
            newest = self.rounds.round(name, run.round, run.attempt) if run and run.round else None
            if run and newest and newest.state is State.OPEN:
                yield run, newest

    def tell(self, of: Round, text: str, *, device: str = "") -> None:
        """Say a change of a round in one line, to the log and to the people who watch the run's topic."""
        who = f" {device}:" if device else ""
        text = messages.shorten(text)
        self.log(f"{messages.round_id(of.run, of.number, of.attempt)}{who} {text}")
        change = RoundChange(
            run=of.run,
            round=of.number,
            attempt=of.attempt,
            state=of.state,
            device=device,
            text=text,
        )
        self.publisher.publish([(topics.of_run(self.fleet, of.run), messages.encode(change))])
