"""What the devices of a deployed stack did in their last rounds of training, from its tables."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct

from fedgrass.console.reports.turnaround_rows import Turnaround
from fedgrass.console.runs.fleet_operator import Operator, RoundRecord
from fedgrass.federation.rounds import AT_WORK, ENDED, Participant, Participation, Round, Work
from fedgrass.federation.runs import Run

_NO_REPLY = AT_WORK | {Participation.SILENT, Participation.OVERDUE}


class DeviceRound(Struct, frozen=True, kw_only=True):
    """What a device did for one announcement. Durations are in seconds, 0: not known.

    Attributes:
        device: thing name.
        lost: whether it never replied.
        examples: that it trained on.
        epochs: of the run's training settings.
        train: duration of the training.
        download_rate: of the model, in bytes per second.
        upload_rate: of the update, in the same unit.
        waiting: what remains of the turnaround: messages on their way, waiting, evaluations.
    """

    device: str
    lost: bool
    examples: float = 0.0
    epochs: float = 1.0
    train: float = 0.0
    download_rate: float = 0.0
    upload_rate: float = 0.0
    waiting: float = 0.0

    @property
    def seconds_per_example(self) -> float:
        """Of the training, for one example in one epoch; 0: not known."""
        return self.train / (self.examples * self.epochs) if self.examples else 0.0


def read_device_rounds(operator: Operator, now: int, most_rounds: int) -> list[DeviceRound]:
    """Return what devices did in the last rounds of training that have ended.

    A device that has not replied is lost only if it had the time to: the deadline has passed, and it was not
    asked for something else before, for which it drops its work. The rows of the turnarounds table also have
    the replies that came too late.

    Args:
        operator: of the stack.
        now: milliseconds since the epoch.
        most_rounds: how many rounds are read, the latest ones.
    """
    records = _latest(operator, most_rounds)
    asked: dict[str, list[int]] = defaultdict(list)
    for _, record in records:
        for participant in record.participants:
            asked[participant.device].append(participant.announced_at)
    found: list[DeviceRound] = []
    for run, record in records:
        rows = operator.turnarounds(record.round)
        for participant in record.participants:
            row = rows.get(participant.device) or _own_row(participant)
            if row:
                found.append(_completed(run, record.round, participant, row))
            elif _is_lost(record.round, participant, asked[participant.device], now):
                found.append(DeviceRound(device=participant.device, lost=True))
    return found


def _latest(operator: Operator, most_rounds: int) -> list[tuple[Run, RoundRecord]]:
    """Return rounds of training that have ended, of the runs that were started last."""
    runs = sorted(operator.every_run(sorted(operator.runs())), key=lambda run: run.started_at, reverse=True)
    found: list[tuple[Run, RoundRecord]] = []
    for run in runs:
        ended = [round_ for round_ in operator.rounds_alone(run) if _is_training(round_)]
        for round_ in reversed(ended):
            if len(found) == most_rounds:
                return found
            found.append((run, RoundRecord(round_, operator.participants(round_))))
    return found


def _is_training(round_: Round) -> bool:
    return round_.work is Work.TRAIN and round_.state in ENDED


def _own_row(participant: Participant) -> Turnaround | None:
    """Return the turnaround that a counted reply has in the rounds table: rows of turnarounds expire."""
    if participant.state not in {Participation.REPLIED, Participation.LATE} or not participant.received_at:
        return None
    return Turnaround(
        seconds=participant.turnaround_seconds,
        download=participant.download_seconds,
        evaluate=participant.evaluate_seconds,
        train=participant.train_seconds,
        upload=participant.upload_seconds,
        examples=participant.examples,
        bytes=participant.bytes,
    )


def _completed(run: Run, round_: Round, participant: Participant, row: Turnaround) -> DeviceRound:
    options = {**run.settings.training, **run.settings.training_by_round.get(str(round_.number), {})}
    epochs = options.get("epochs", 1)
    rest = row.seconds - row.download - row.train - row.upload
    examples = row.examples or participant.examples
    return DeviceRound(
        device=participant.device,
        lost=False,
        # A deadline that cut the training short leaves open how many epochs were trained.
        examples=0.0 if participant.partial else examples,
        epochs=epochs if isinstance(epochs, int | float) and epochs > 0 else 1,
        train=row.train,
        download_rate=_rate(round_.bytes_to_download, row.download),
        upload_rate=_rate(row.bytes or participant.bytes, row.upload),
        waiting=max(0.0, rest),
    )


def _rate(size: float, seconds: float) -> float:
    return size / seconds if seconds > 0 else 0.0


def _is_lost(round_: Round, participant: Participant, asked: Sequence[int], now: int) -> bool:
    if participant.state not in _NO_REPLY:
        return False
    if participant.state is Participation.OVERDUE or round_.closed_at >= round_.deadline_at:
        return True
    asked_again = any(participant.announced_at < at < round_.deadline_at for at in asked)
    return now >= round_.deadline_at and not asked_again


def by_device(rounds: Sequence[DeviceRound]) -> Mapping[str, list[DeviceRound]]:
    """Return the rounds of each device."""
    found: dict[str, list[DeviceRound]] = defaultdict(list)
    for one in rounds:
        found[one.device].append(one)
    return found


def positive(values: Iterator[float]) -> list[float]:
    """Return the values that are known."""
    return [value for value in values if value > 0]
