"""The figures of a load test: whether each reply was counted once, rates, load and the bottleneck."""

import pytest
from msgspec.structs import replace

from fedgrass.console.runs.fleet_operator import RoundRecord
from fedgrass.federation.rounds import Participant, Participation, Round, State
from fedgrass.swarm.swarm_figures import (
    Load,
    RoundOfSwarm,
    bottleneck,
    dynamo_requests,
    load_between,
    mark_error,
    message_rates,
    percentiles,
    round_figures,
    summed,
)
from fedgrass.swarm.swarm_measures import CLIENT, CLOUD, FUNCTIONS, FunctionTime, Look
from fedgrass.swarm.swarm_spec import RoundReplies, Sample

MARKS = {"a": 0, "b": 1, "c": 2}
AT = 1_700_000_000_000
CLOSED = Round(
    run="load",
    number=1,
    attempt=1,
    state=State.CLOSED,
    asked=3,
    needed=3,
    minimum=1,
    opened_at=AT + 500,
    deadline_at=AT + 60_000,
    base_sha256="",
    base_bytes=1,
    replied=3,
    choosing_at=AT,
    opening_seconds=2.0,
    averaging_seconds=1.0,
    closed_at=AT + 10_000,
)
REPLIES = RoundReplies(round_id="load/1/1", devices=["a", "b", "c"], sent=4, counted=3)


def _part(device: str, state: Participation = Participation.REPLIED) -> Participant:
    return Participant(
        device=device, state=state, announced_at=AT + 500, received_at=AT + 2_500, train_seconds=0.5
    )


def _figures(
    *parts: Participant, round_: Round = CLOSED, replies: RoundReplies = REPLIES, mark: float | None = 1.0
) -> RoundOfSwarm:
    return round_figures(RoundRecord(round_, list(parts)), {replies.round_id: replies}, MARKS, mark)


def test_a_round_in_which_each_reply_was_counted_once_is_exact() -> None:
    found = _figures(_part("a"), _part("b"), _part("c"))
    assert found.exact
    assert (found.replied, found.completed, found.completions, found.lost) == (3, 3, 4, 0)
    assert (found.announce_seconds, found.reply_seconds, found.averaging_seconds) == (2.0, 7.0, 1.0)
    assert found.seconds == 10.0
    assert found.turnaround is not None
    assert found.turnaround.p50 == 2.0


def test_a_reply_that_was_not_counted_is_lost() -> None:
    found = _figures(_part("a"), _part("b"), _part("c", Participation.ACCEPTED))
    assert (found.lost, found.exact) == (1, False)


def test_a_late_reply_is_not_lost() -> None:
    late = replace(CLOSED, replied=2, late=1)
    found = _figures(_part("a"), _part("b"), _part("c", Participation.LATE), round_=late, mark=0.5)
    assert (found.lost, found.late, found.exact) == (0, 1, True)


def test_a_counter_that_differs_from_the_rows_is_not_exact() -> None:
    assert not _figures(_part("a"), _part("b"), _part("c"), round_=replace(CLOSED, replied=4)).exact


def test_a_counted_device_that_never_completed_is_not_exact() -> None:
    replies = replace(REPLIES, devices=["a", "b"])
    assert not _figures(_part("a"), _part("b"), _part("c"), replies=replies).exact


def test_a_reply_that_was_averaged_twice_moves_the_mark() -> None:
    twice = (0 + 1 + 2 + 2) / 4
    found = _figures(_part("a"), _part("b"), _part("c"), mark=twice)
    assert found.mark_error == pytest.approx(0.25)
    assert not found.exact


def test_an_abandoned_round_is_not_exact_and_has_its_reason() -> None:
    gone = replace(CLOSED, state=State.ABANDONED, replied=0, reason="too few replied")
    found = _figures(_part("a", Participation.ACCEPTED), round_=gone, mark=None)
    assert (found.exact, found.reason, found.turnaround) == (False, "too few replied", None)


def test_the_error_of_a_mark_is_relative_to_the_mean() -> None:
    assert mark_error(500.0, [400, 600]) == 0
    assert mark_error(505.0, [400, 600]) == pytest.approx(0.01)
    assert mark_error(0.1, [0]) == pytest.approx(0.1)


def test_percentiles_of_nothing_are_unknown() -> None:
    assert percentiles([]) is None
    found = percentiles([float(number) for number in range(101)])
    assert found is not None
    assert (found.p50, found.p95, found.p99) == (50.0, 95.0, 99.0)


def test_samples_of_processes_are_added_second_by_second() -> None:
    one = [Sample(at=1.0, sent=1), Sample(at=2.0, sent=5, error="oh")]
    other = [Sample(at=1.1, sent=2)]
    assert summed([one, other]) == [Sample(at=1.1, sent=3)]
    assert summed([]) == []
    assert summed([one])[1].error == "oh"


def test_message_rates_are_of_the_rounds_only() -> None:
    samples = [
        Sample(at=0.0, sent=100, received=0),
        Sample(at=10.0, sent=200, received=10),
        Sample(at=11.0, sent=230, received=30),
        Sample(at=12.0, sent=240, received=70),
    ]
    found = message_rates(samples, 10.0, 12.0)
    assert (found.sent, found.received) == (40, 60)
    assert (found.sent_per_second, found.received_per_second) == (20.0, 30.0)
    assert (found.most_sent_per_second, found.most_received_per_second) == (30.0, 40.0)
    assert message_rates(samples[:1], 0.0, 1.0).sent == 0


def test_requests_are_shared_among_the_counted_replies() -> None:
    found = dynamo_requests({"GetItem": 10, "Query": 10, "TransactWriteItems": 10, "PutItem": 5}, 10)
    assert (found.per_device_round, found.reads_per_device_round) == (3.5, 2.0)
    assert found.transactions_per_device_round == 1.0
    assert dynamo_requests({"GetItem": 3}, 0).per_device_round == 3.0


def test_the_load_is_what_was_used_between_the_looks() -> None:
    looks = [
        Look(at=0.0, processor={CLOUD: 5.0}, busy=10.0, queued=0),
        Look(at=10.0, processor={CLOUD: 10.0, FUNCTIONS: 4.0}, busy=20.0, queued=40),
    ]
    found = load_between(
        looks,
        0.0,
        10.0,
        functions={"averager": FunctionTime(calls=3, billed_seconds=15.0)},
        cores=2,
        processes=1,
        reply_concurrency=2,
        train_share=0.0,
    )
    assert found.groups == {CLOUD: 0.5, FUNCTIONS: 0.4}
    assert (found.machine, found.queued, found.most_queued, found.averagers) == (1.0, 20.0, 40, 1.5)


IDLE = Load(
    seconds=10.0,
    cores=2,
    machine=0.5,
    groups={CLIENT: 0.1, CLOUD: 0.2, FUNCTIONS: 0.1},
    queued=0.0,
    most_queued=0,
    averagers=0.5,
    reply_concurrency=2,
    processes=1,
    train_share=0.0,
)


@pytest.mark.parametrize(
    ("load", "named"),
    [
        (IDLE, "nothing was saturated"),
        (replace(IDLE, groups={CLIENT: 0.95}), "the swarm's own processes: 0.95 cores in 1"),
        (replace(IDLE, groups={CLIENT: 0.95}, processes=2), "nothing was saturated"),
        (replace(IDLE, machine=1.95, groups={FUNCTIONS: 1.2, CLOUD: 0.5}), "most of all by: functions"),
        (replace(IDLE, machine=1.95, groups={FUNCTIONS: 0.3}), "most of all by: other programs"),
        (replace(IDLE, groups={CLOUD: 0.9}), "the embedded cloud, whose broker"),
        (replace(IDLE, most_queued=200, averagers=1.9), "the concurrency of the averagers: 1.9"),
        (replace(IDLE, most_queued=200), "the functions that count replies: up to 200 waited"),
        (replace(IDLE, train_share=0.8), "the devices' own work: 80%"),
    ],
)
def test_the_bottleneck_is_named_with_its_figures(load: Load, named: str) -> None:
    assert named in bottleneck(load)
