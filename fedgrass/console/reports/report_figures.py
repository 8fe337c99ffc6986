"""The figures of a report, collected round by round: the memory grows with rounds and devices, not with both.

Of a fleet of thousands the report has the distribution, the slowest devices, and those most often lost.
"""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from msgspec import Struct

from fedgrass.console.reports.turnaround_rows import PARTS, Turnaround
from fedgrass.federation.round_metrics import is_share
from fedgrass.federation.rounds import AT_WORK, ENDED, Participant, Participation, Round, State, Work
from fedgrass.federation.runs import Run
from fedgrass.federation.training_settings import LOCAL_PREFIX

SLOWEST = 20  # devices
MOST_LOST = 50  # devices
_MOST_REASONS = 30
_NAMED = 5  # devices of one reason
_REPLIED = frozenset({Participation.REPLIED, Participation.REFUSED})
# What became of a device's part in a round, in the order in which it is drawn.
OUTCOMES = ("replied", "refused", "declined", "failed", "silent", "late", "given up", "unfinished")
_OUTCOME_OF = {
    Participation.REPLIED: "replied",
    Participation.REFUSED: "refused",
    Participation.DECLINED: "declined",
    Participation.FAILED: "failed",
    Participation.SILENT: "silent",
    Participation.LATE: "late",
    Participation.OVERDUE: "given up",
    Participation.STALE: "given up",
}


class RoundFigures(Struct, frozen=True, kw_only=True):
    """One attempt at a round."""

    number: int
    attempt: int
    work: Work
    state: State
    reason: str
    model: int  # the global model that its metrics are of
    opened_at: int
    seconds: float | None  # None: it is still open
    outcomes: dict[str, int]  # number of devices by outcome
    turnaround_median: float | None  # seconds, of the devices that replied
    turnaround_90: float | None  # nine tenths of them were faster
    turnaround_slowest: float | None
    bytes_up: int
    bytes_down: int
    metrics: dict[str, float]


class DeviceFigures(Struct, frozen=True, kw_only=True):
    """What one device did in the rounds of a run."""

    device: str
    asked: int  # attempts at rounds that asked it
    outcomes: dict[str, int]
    mean: Turnaround | None  # of its replies, parts included; None: it never replied
    slowest_seconds: float  # its slowest reply
    reason: str  # the last one that it, or the cloud, gave for a loss


class Reason(Struct, frozen=True, kw_only=True):
    """A reason for which devices were lost or refused, and how often."""

    outcome: str
    reason: str
    times: int
    devices_count: int
    devices: list[str]  # some of them


class ReportFigures(Struct, frozen=True, kw_only=True):
    """Everything that a report draws."""

    rounds: list[RoundFigures]
    devices_count: int  # devices that were asked at least once
    devices_replied: int  # devices that replied at least once
    device_seconds: list[float]  # the mean turnaround of each device that replied, ascending
    mean: Turnaround | None  # over all replies
    slowest: list[DeviceFigures]  # by mean turnaround
    lost: list[DeviceFigures]  # those most often refused or lost
    lost_count: int  # devices that were refused or lost at least once
    reasons: list[Reason]  # the most frequent ones
    reasons_left_out: int
    expired: int  # replies whose row of the turnarounds table has expired: their figures are the run's


@dataclass(slots=True)
class _Sum:
    """The turnarounds of one device, or of all, added up."""

    count: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    parts: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))

    def add(self, turnaround: Turnaround) -> None:
        self.count += 1
        self.seconds += turnaround.seconds
        self.slowest = max(self.slowest, turnaround.seconds)
        for part in PARTS:
            self.parts[part] += getattr(turnaround, part)

    @property
    def mean(self) -> Turnaround | None:
        if not self.count:
            return None
        parts = {part: total / self.count for part, total in self.parts.items()}
        return Turnaround(seconds=self.seconds / self.count, **parts)


@dataclass(slots=True)
class _Device:
    outcomes: Counter[str] = field(default_factory=Counter)
    turnarounds: _Sum = field(default_factory=_Sum)
    reason: str = ""

    @property
    def lost(self) -> int:
        return self.outcomes.total() - self.outcomes["replied"]


@dataclass(slots=True)
class _Reasons:
    times: int = 0
    devices: set[str] = field(default_factory=set)


class Collector:
    """Collects the figures of a run; ``add`` takes its attempts at rounds in order."""

    def __init__(self) -> None:
        self._rounds: list[RoundFigures] = []
        self._devices: dict[str, _Device] = {}
        self._reasons: dict[tuple[str, str], _Reasons] = {}
        self._all = _Sum()
        self._expired = 0

    def add(
        self, round_: Round, participants: Sequence[Participant], turnarounds: Mapping[str, Turnaround]
    ) -> None:
        """Add one attempt at a round.

        Args:
            round_: the attempt.
            participants: its devices.
            turnarounds: the rows of the turnarounds table, by device.
        """
        outcomes: Counter[str] = Counter()
        seconds = []
        for part in participants:
            outcome = _outcome(round_, part)
            if not outcome:
                continue
            outcomes[outcome] += 1
            device = self._devices.setdefault(part.device, _Device())
            device.outcomes[outcome] += 1
            if outcome != "replied":
                self._note_loss(device, part, outcome)
            found = turnarounds.get(part.device)
            if part.state in _REPLIED and not found:
                self._expired += 1
                found = as_counted(part)
            if part.state in _REPLIED and found:
                seconds.append(found.seconds)
            if found:
                device.turnarounds.add(found)
                self._all.add(found)
        self._rounds.append(_round_figures(round_, outcomes, sorted(seconds)))

    def _note_loss(self, device: _Device, part: Participant, outcome: str) -> None:
        reason = part.reason.removeprefix(f"{outcome}: ")  # late updates are refused as "late: ..."
        device.reason = reason or device.reason
        noted = self._reasons.setdefault((outcome, reason), _Reasons())
        noted.times += 1
        noted.devices.add(part.device)

    def figures(self) -> ReportFigures:
        """Return the figures so far."""
        replied = {name: found for name, found in self._devices.items() if found.turnarounds.count}
        means = {name: found.turnarounds.seconds / found.turnarounds.count for name, found in replied.items()}
        slowest = sorted(replied, key=lambda name: (-means[name], name))[:SLOWEST]
        lost = [name for name, found in self._devices.items() if found.lost]
        lost.sort(key=lambda name: (-self._devices[name].lost, name))
        reasons = sorted(self._reasons.items(), key=lambda item: (-item[1].times, item[0]))
        return ReportFigures(
            rounds=self._rounds,
            devices_count=len(self._devices),
            devices_replied=sum(found.outcomes["replied"] > 0 for found in self._devices.values()),
            device_seconds=sorted(means.values()),
            mean=self._all.mean,
            slowest=[self._device(name) for name in slowest],
            lost=[self._device(name) for name in lost[:MOST_LOST]],
            lost_count=len(lost),
            reasons=[
                Reason(
                    outcome=outcome,
                    reason=reason,
                    times=noted.times,
                    devices_count=len(noted.devices),
                    devices=sorted(noted.devices)[:_NAMED],
                )
                for (outcome, reason), noted in reasons[:_MOST_REASONS]
            ],
            reasons_left_out=max(0, len(reasons) - _MOST_REASONS),
            expired=self._expired,
        )

    def _device(self, name: str) -> DeviceFigures:
        found = self._devices[name]
        return DeviceFigures(
            device=name,
            asked=found.outcomes.total(),
            outcomes=dict(found.outcomes),
            mean=found.turnarounds.mean,
            slowest_seconds=found.turnarounds.slowest,
            reason=found.reason,
        )


def _outcome(round_: Round, part: Participant) -> str:
    """Return what became of a device's part; empty while that is open, or if a later round counts it."""
    if part.state in _OUTCOME_OF:
        return _OUTCOME_OF[part.state]
    over = round_.state in ENDED and not round_.in_flight
    return "unfinished" if over and part.state in AT_WORK else ""


def as_counted(part: Participant) -> Turnaround:
    """Return the turnaround that the run's own row has of a reply."""
    return Turnaround(
        seconds=part.turnaround_seconds,
        download=part.download_seconds,
        evaluate=part.evaluate_seconds,
        train=part.train_seconds,
        upload=part.upload_seconds,
    )


def _round_figures(round_: Round, outcomes: Mapping[str, int], seconds: Sequence[float]) -> RoundFigures:
    return RoundFigures(
        number=round_.number,
        attempt=round_.attempt,
        work=round_.work,
        state=round_.state,
        reason=round_.reason,
        model=round_.number if round_.work is Work.MESSAGE else round_.base,
        opened_at=round_.opened_at,
        seconds=(round_.closed_at - round_.opened_at) / 1000 if round_.closed_at else None,
        outcomes=dict(outcomes),
        turnaround_median=statistics.median(seconds) if seconds else None,
        turnaround_90=seconds[(len(seconds) - 1) * 9 // 10] if seconds else None,
        turnaround_slowest=seconds[-1] if seconds else None,
        bytes_up=round_.bytes_up,
        bytes_down=round_.bytes_down,
        metrics=round_.metrics,
    )


class Point(Struct, frozen=True):
    """The value of a metric of one global model."""

    model: int  # its number: the round that made it
    seconds: float  # since the run was started, until its evaluation was complete
    bytes: int  # that all devices had downloaded and uploaded by then
    value: float


def curve(run: Run, rounds: Sequence[RoundFigures], metric: str) -> list[Point]:
    """Return a metric of the global models, as the devices measured it on their own data."""
    points, sent = [], 0
    for found in rounds:
        sent += found.bytes_up + found.bytes_down
        if found.state is State.CLOSED and metric in found.metrics:
            seconds = (found.opened_at - run.started_at) / 1000 + (found.seconds or 0.0)
            points.append(Point(found.model, max(0.0, seconds), sent, found.metrics[metric]))
    return points


def metrics_of(rounds: Sequence[RoundFigures]) -> list[str]:
    """Return the metrics of global models that were reported: accuracy, loss, shares, losses, others."""
    found = {name for each in rounds for name in each.metrics if not name.startswith(LOCAL_PREFIX)}

    def rank(name: str) -> tuple[bool, bool, bool, bool, str]:
        return name != "accuracy", name != "loss", not is_share(name), "loss" not in name.lower(), name

    return sorted(found, key=rank)
