"""Rows stay within DynamoDB's limit of 400 KB; a round that fails repeatedly reports why."""

from typing import Any

import pytest
from botocore.exceptions import ClientError

from cloud_functions.aws.dynamodb_table import marshal, to_row
from cloud_functions.recovery import manifests
from cloud_functions.rounds import aggregate_round
from cloud_functions.rounds.close_round import MOST_METRICS_OF_A_ROUND
from fedgrass.federation.aggregation.sharding_plan import Scale
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.messages.message_fields import MOST_METRICS
from fedgrass.federation.rounds import State
from fedgrass.federation.runs import RunState
from fedgrass.federation.settings_parser import LARGEST_SETTINGS, parse_settings
from tests.fakes.memory_cloud import LARGEST_ROW, Crash, row_size
from tests.fakes.small_fleet import RUN, SmallFleet

pytestmark = pytest.mark.slow  # seconds of trainings, crashes or processes: make test runs them


def test_a_round_of_many_metrics_closes_and_its_manifest_has_all_of_them() -> None:
    fleet = SmallFleet(devices=600, rounds=1, threshold=1.0, target_metric="zeal", target_value=9.0)
    fleet.start()
    opened = fleet.newest()
    for number, device in enumerate(fleet.names):
        own = {f"{device}_{place}".ljust(64, "x"): 0.123456789 for place in range(20)}
        shared = {"loss": 0.5} | ({"zeal": 1.0} if number == 0 else {})
        fleet.reply(device, opened, metrics={**own, **shared})
    closed = fleet.rounds.round(RUN, 1, 1)
    assert closed is not None
    assert (closed.state, fleet.run().state) == (State.CLOSED, RunState.SUCCEEDED)
    assert {"loss", "zeal"} <= closed.metrics.keys()  # of most devices, and the target metric
    assert len(closed.metrics) == MOST_METRICS_OF_A_ROUND
    assert closed.metrics_left_out == 600 * 20 + 2 - MOST_METRICS_OF_A_ROUND
    assert row_size(marshal(to_row(closed))) < LARGEST_ROW // 20
    kept = manifests.round_of(fleet.cloud, RUN, 1)
    assert kept is not None
    assert len(kept.metrics) == 600 * 20 + 2
    assert kept.metrics.items() >= closed.metrics.items()
    (figures,) = [change.figures for change in fleet.told() if change.figures]
    assert figures.metrics_left_out == 600 * 20 + 2 - MOST_METRICS


def test_a_round_of_few_metrics_has_them_in_its_row_alone() -> None:
    fleet = SmallFleet(rounds=1)
    fleet.start()
    for device in fleet.names:
        fleet.reply(device, metrics={"loss": 0.5, "accuracy": 0.25})
    closed, kept = fleet.rounds.round(RUN, 1, 1), manifests.round_of(fleet.cloud, RUN, 1)
    assert closed is not None
    assert kept is not None
    assert (closed.metrics, closed.metrics_left_out) == ({"loss": 0.5, "accuracy": 0.25}, 0)
    assert kept.metrics == {}


@pytest.mark.parametrize(
    "settings",
    [
        {"held_out": [f"thing-{number:0120}" for number in range(900)], "evaluate_every": 1},
        {"training_by_round": {str(number): {"a": "x" * 2000} for number in range(1, 60)}},
    ],
)
def test_settings_for_which_a_row_has_no_room_are_refused_by_their_name(settings: dict[str, Any]) -> None:
    largest = next(iter(settings))
    message = (
        rf"settings have [0-9,]+ bytes of JSON, its {largest} alone [0-9,]+; at most {LARGEST_SETTINGS:,} are"
    )
    with pytest.raises(SettingsError, match=message):
        parse_settings({"task": "digits", **settings})


def test_the_largest_settings_and_actions_fit_a_row() -> None:
    names = [f"thing-{number:0120}" for number in range(700)]
    fleet = SmallFleet(rounds=3, held_out=names, evaluate_every=1, schedule="by_hand")
    for name in names:
        fleet.devices.heartbeat(name, fleet.now)
    fleet.start()
    for number in range(150):
        fleet.act("next", id=f"{number}")
    assert row_size(marshal(to_row(fleet.run()))) < LARGEST_ROW // 2


# ---------------------------------------------------------------- the reason of what fails again and again
def at_every_lease(fleet: SmallFleet) -> None:
    """Let one averager after the other take the lease until the round has ended."""
    for _ in range(aggregate_round.MOST_LEASES + 1):
        fleet.pass_time(120)
        try:
            fleet.deliver({"reminder": {"run": RUN}})
        except (Crash, AssertionError):  # the averager crashed, or its message is delivered again
            fleet.log.clear()


def test_an_error_that_each_averager_meets_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = SmallFleet(rounds=1, attempts=1)
    fleet.start()

    def refuse(*_: object, **__: object) -> None:
        answer: Any = {"Error": {"Code": "AccessDenied", "Message": "not to you"}}
        raise ClientError(answer, "PutObject")

    opened = fleet.newest()
    for device in fleet.names[:-1]:
        fleet.reply(device, opened)
    monkeypatch.setattr(fleet.bucket, "create", refuse)
    with pytest.raises(AssertionError, match="AccessDenied"):
        fleet.reply(fleet.names[-1], opened)
    at_every_lease(fleet)
    ended = fleet.newest()
    assert ended.state is State.ABANDONED
    assert ended.reason.startswith(
        "6 averagers in a row failed at the round, the last one with ClientError: "
    )
    assert "AccessDenied" in ended.reason
    assert "not to you" in ended.reason
    assert "weighted_mean" not in ended.reason
    assert "not to you" in fleet.run().reason


def test_averagers_that_were_stopped_are_not_blamed_on_the_strategy() -> None:
    fleet = SmallFleet(rounds=1, attempts=1)
    fleet.start()
    opened = fleet.newest()
    for device in fleet.names[:-1]:
        fleet.reply(device, opened)
    fleet.counter.before = die_at_drafts
    with pytest.raises(Crash):
        fleet.reply(fleet.names[-1], opened)
    at_every_lease(fleet)
    ended = fleet.newest()
    assert ended.state is State.ABANDONED
    assert "6 averagers in a row did not end within their lease, and none reported an error" in ended.reason
    assert "its time-out or its memory" in ended.reason
    assert "weighted_mean" not in ended.reason


def die_at_drafts(call: str) -> None:
    if call == "create":
        raise Crash


def test_an_error_of_each_maker_of_a_shard_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = SmallFleet(rounds=1, attempts=1, scale=Scale(sharded_bytes=0))
    fleet.start()

    def refuse(*_: object) -> None:
        message = "the disk of the cloud is full"
        raise OSError(message)

    monkeypatch.setattr(fleet.bucket, "create", refuse)
    for device in fleet.names:
        fleet.reply(device)
    with pytest.raises(AssertionError, match="disk of the cloud"):
        fleet.work()
    fleet.log.clear()
    at_every_lease(fleet)
    assert "the last one with OSError: the disk of the cloud is full" in fleet.newest().reason


def test_a_model_that_is_missing_is_named_at_once() -> None:
    fleet = SmallFleet(rounds=1, attempts=1)
    fleet.start()
    for device in fleet.names[:-1]:
        fleet.reply(device)
    del fleet.bucket.objects[f"models/{RUN}/0.safetensors"]
    fleet.reply(fleet.names[-1])
    assert fleet.newest().reason == (
        "the model models/run-1/0.safetensors, from which round 1 starts, is missing in the bucket:"
        " put it back"
    )


def test_the_store_in_memory_refuses_a_row_as_dynamodb_does() -> None:
    fleet = SmallFleet()
    fleet.start()
    with pytest.raises(ClientError, match="exceeded the maximum allowed size"):
        fleet.rounds.change_run(fleet.run(), reason="x" * LARGEST_ROW)
    assert fleet.run().reason == ""
