"""The figures of a swarm, computed from the rounds table and from what its processes measured.

Read ``round_figures`` first: it decides for each round whether every reply was counted exactly once.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final

import numpy as np
from msgspec import Struct

from fedgrass.console.runs.fleet_operator import RoundRecord
from fedgrass.federation.messages import round_id
from fedgrass.federation.rounds import Participation, State
from fedgrass.swarm.swarm_measures import CLIENT, CLOUD, FunctionTime, Look
from fedgrass.swarm.swarm_spec import RoundReplies, Sample

_COUNTED: Final = frozenset({Participation.REPLIED, Participation.REFUSED})
_SATURATED: Final = 0.85  # of a processor: a process with one busy thread has no more to give
_MACHINE_FULL: Final = 0.9  # of all processors
_WAITING: Final = 10  # queued replies that are more than those in transit
_MARK_TOLERANCE: Final = 1e-4  # relative: sums of float32
_READS: Final = frozenset({"GetItem", "BatchGetItem", "Query", "Scan", "TransactGetItems"})
_TRANSACTIONS: Final = frozenset({"TransactWriteItems"})


class Percentiles(Struct, frozen=True, kw_only=True):
    """Of durations in seconds."""

    p50: float
    p95: float
    p99: float


class RoundOfSwarm(Struct, frozen=True, kw_only=True):
    """One attempt at a round."""

    round: int
    attempt: int
    state: str
    reason: str
    asked: int
    replied: int  # counted by the cloud
    completed: int  # devices that sent a completion
    completions: int  # that they sent, with repeated ones
    lost: int  # devices that completed in time and were not counted, nor late
    late: int
    mark_error: float | None  # relative difference of the model's mark from the counted devices' mean
    exact: bool  # each reply was counted exactly once
    turnaround: Percentiles | None
    announce_seconds: float
    train_seconds: float  # median of the devices
    reply_seconds: float  # from the end of the announcements until the averaging began
    averaging_seconds: float
    seconds: float  # from the selection of the devices until the round was closed
    turnarounds: tuple[float, ...] = ()  # of the counted replies, in seconds


class MessageRates(Struct, frozen=True, kw_only=True):
    """MQTT messages of all devices while the rounds ran."""

    sent: int  # by devices
    received: int  # by devices
    sent_per_second: float
    received_per_second: float
    most_sent_per_second: float
    most_received_per_second: float


class DynamoRequests(Struct, frozen=True, kw_only=True):
    """Requests of the functions to DynamoDB while the rounds ran."""

    by_operation: dict[str, int]
    per_device_round: float
    reads_per_device_round: float
    transactions_per_device_round: float


def percentiles(seconds: Sequence[float]) -> Percentiles | None:
    """Return the percentiles of durations; None if there are none."""
    if not seconds:
        return None
    p50, p95, p99 = (round(float(value), 3) for value in np.percentile(seconds, [50, 95, 99]))
    return Percentiles(p50=p50, p95=p95, p99=p99)


def mark_error(model_mark: float, marks: Sequence[int]) -> float:
    """Return the difference between the model's mark and the mean of ``marks``, relative to the mean.

    Each update has the mark of its device: a reply that was averaged twice, or left out, moves the mean.
    """
    mean = float(np.mean(marks)) if marks else 0.0
    return abs(model_mark - mean) / max(1.0, abs(mean))


def round_figures(
    record: RoundRecord,
    replies: Mapping[str, RoundReplies],
    marks: Mapping[str, int],
    model_mark: float | None,
) -> RoundOfSwarm:
    """Return the figures of one attempt at a round.

    Args:
        record: its rows in the rounds table.
        replies: what the devices sent, by round id.
        marks: the devices' marks by thing name.
        model_mark: of the model that it made; None if it made none.
    """
    found = record.round
    sent = replies.get(round_id(found.run, found.number, found.attempt))
    completed = set(sent.devices) if sent else set()
    by_state = {part.device: part for part in record.participants}
    counted = {name for name, part in by_state.items() if part.state in _COUNTED}
    late = {name for name, part in by_state.items() if part.state is Participation.LATE}
    missing = completed - counted - late
    error = None if model_mark is None else mark_error(model_mark, [marks[name] for name in counted])
    rows_agree = found.replied == len(counted) and counted <= completed
    turnarounds = [
        part.turnaround_seconds for part in record.participants if part.device in counted and part.received_at
    ]
    begun = found.choosing_at or found.opened_at
    announced = begun / 1000 + found.opening_seconds
    ended = found.closed_at or begun
    averaging = found.averaging_seconds
    closed = found.state is State.CLOSED
    return RoundOfSwarm(
        round=found.number,
        attempt=found.attempt,
        state=found.state,
        reason=found.reason,
        asked=found.asked,
        replied=found.replied,
        completed=len(completed),
        completions=sent.sent if sent else 0,
        lost=len(missing) if closed else 0,
        late=len(late),
        mark_error=None if error is None else round(error, 9),
        exact=closed and rows_agree and not missing and (error is None or error < _MARK_TOLERANCE),
        turnaround=percentiles(turnarounds),
        announce_seconds=round(found.opening_seconds, 3),
        train_seconds=round(
            float(np.median([by_state[name].train_seconds for name in counted])) if counted else 0.0, 3
        ),
        reply_seconds=round(max(0.0, ended / 1000 - averaging - announced), 3),
        averaging_seconds=round(averaging, 3),
        seconds=round((ended - begun) / 1000, 3),
        turnarounds=tuple(round(value, 3) for value in turnarounds),
    )


def summed(samples: Sequence[Sequence[Sample]]) -> list[Sample]:
    """Return the samples of several processes as those of one: the n-th of each, added."""
    length = min((len(of_process) for of_process in samples), default=0)
    return [_added([of_process[index] for of_process in samples]) for index in range(length)]


def _added(samples: Sequence[Sample]) -> Sample:
    special = {"at", "lag", "error"}
    counts = {
        name: sum(getattr(one, name) for one in samples)
        for name in Sample.__struct_fields__
        if name not in special
    }
    return Sample(
        at=max(one.at for one in samples),
        lag=max(one.lag for one in samples),
        error=next((one.error for one in samples if one.error), ""),
        **counts,
    )


def message_rates(samples: Sequence[Sample], since: float, until: float) -> MessageRates:
    """Return the messages between two moments, in seconds since the epoch."""
    within = [one for one in samples if since - 1 <= one.at <= until + 1]
    if len(within) < 2:  # noqa: PLR2004 - a rate needs two moments
        return MessageRates(
            sent=0,
            received=0,
            sent_per_second=0.0,
            received_per_second=0.0,
            most_sent_per_second=0.0,
            most_received_per_second=0.0,
        )
    first, last = within[0], within[-1]
    seconds = max(1e-9, last.at - first.at)
    rates = [per_second(before, after) for before, after in pairwise(within)]
    return MessageRates(
        sent=last.sent - first.sent,
        received=last.received - first.received,
        sent_per_second=round((last.sent - first.sent) / seconds, 1),
        received_per_second=round((last.received - first.received) / seconds, 1),
        most_sent_per_second=round(max(sent for sent, _ in rates), 1),
        most_received_per_second=round(max(received for _, received in rates), 1),
    )


def per_second(before: Sample, after: Sample) -> tuple[float, float]:
    """Return the messages sent and received per second between two samples."""
    seconds = max(1e-9, after.at - before.at)
    return (after.sent - before.sent) / seconds, (after.received - before.received) / seconds


def dynamo_requests(by_operation: Mapping[str, int], device_rounds: int) -> DynamoRequests:
    """Return the requests by operation, and per reply that was counted."""
    count = max(1, device_rounds)

    def share(names: frozenset[str]) -> float:
        return round(sum(number for name, number in by_operation.items() if name in names) / count, 2)

    return DynamoRequests(
        by_operation=dict(by_operation),
        per_device_round=round(sum(by_operation.values()) / count, 2),
        reads_per_device_round=share(_READS),
        transactions_per_device_round=share(_TRANSACTIONS),
    )


class Load(Struct, frozen=True, kw_only=True):
    """How busy everything was while the rounds ran. Processors are means: 1.0 is one busy core."""

    seconds: float
    cores: int
    machine: float  # cores busy with anything
    groups: dict[str, float]  # by group of processes
    queued: float  # mean number of replies in the queue
    most_queued: int
    averagers: float  # running at the same time, mean, by their billed time; 0: unknown
    reply_concurrency: int  # most averagers that count replies at the same time; 0: unknown
    processes: int  # of the swarm
    train_share: float  # of a round's time that the median device trains


def load_between(  # noqa: PLR0913 - what was measured
    looks: Sequence[Look],
    since: float,
    until: float,
    *,
    functions: Mapping[str, FunctionTime],
    cores: int,
    processes: int,
    reply_concurrency: int,
    train_share: float,
) -> Load:
    """Return the load between two moments, in seconds since the epoch."""
    within = [one for one in looks if since - 2 <= one.at <= until + 2] or list(looks[-1:])
    first, last = (within[0], within[-1]) if within else (None, None)
    seconds = max(1e-9, last.at - first.at) if first and last else 1e-9
    groups = (
        {
            name: round((used - first.processor.get(name, 0.0)) / seconds, 3)
            for name, used in last.processor.items()
        }
        if first and last
        else {}
    )
    billed = functions["averager"].billed_seconds if "averager" in functions else 0.0
    queued = [one.queued for one in within]
    return Load(
        seconds=round(until - since, 3),
        cores=cores,
        machine=round((last.busy - first.busy) / seconds, 3) if first and last else 0.0,
        groups=groups,
        queued=round(float(np.mean(queued)), 1) if queued else 0.0,
        most_queued=max(queued, default=0),
        averagers=round(billed / max(1e-9, until - since), 3),
        reply_concurrency=reply_concurrency,
        processes=processes,
        train_share=round(train_share, 3),
    )


def bottleneck(load: Load) -> str:
    """Return what limited the rounds, with the figures that show it."""
    client, cloud = load.groups.get(CLIENT, 0.0), load.groups.get(CLOUD, 0.0)
    shares = ", ".join(f"{name} {used:.2f}" for name, used in sorted(load.groups.items()))
    if client >= _SATURATED * load.processes:
        return (
            f"the swarm's own processes: {client:.2f} cores in {load.processes} of them; raise --processes"
            " or use another machine for the devices"
        )
    if load.machine >= _MACHINE_FULL * load.cores:
        groups = {**load.groups, "other programs": load.machine - sum(load.groups.values())}
        most = max(groups, key=lambda name: groups[name])
        return (
            f"the processors of this machine: {load.machine:.2f} of {load.cores} cores busy, most of all"
            f" by: {most} ({shares})"
        )
    if cloud >= _SATURATED:
        return (
            f"the embedded cloud, whose broker, rules, tables and bucket share one thread: {cloud:.2f} cores"
            f" ({shares})"
        )
    if load.most_queued > _WAITING and 0 < load.reply_concurrency <= load.averagers / _SATURATED:
        return (
            f"the concurrency of the averagers: {load.averagers:.1f} ran at the same time, of at most"
            f" {load.reply_concurrency}, while up to {load.most_queued} replies waited: raise"
            " ReplyConcurrency of the stack (--averagers)"
        )
    if load.train_share >= 0.5:  # noqa: PLR2004 - most of the time
        return f"the devices' own work: {load.train_share:.0%} of a round's time"
    if load.most_queued > _WAITING:
        return f"the functions that count replies: up to {load.most_queued} waited ({shares or 'on AWS'})"
    return f"nothing was saturated ({shares or 'on AWS'}; at most {load.most_queued} replies waited)"
