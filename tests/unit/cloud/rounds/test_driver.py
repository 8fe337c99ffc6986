"""Whole runs over ports in memory: how they end, and what is published."""

import json

import pytest

from cloud_functions import initiator
from cloud_functions.rounds.open_round import deadline_of
from fedgrass.federation import object_keys, topics
from fedgrass.federation.messages import Announcement, NewModel, decode
from fedgrass.federation.rounds import Participation, State
from fedgrass.federation.runs import RunState
from fedgrass.federation.weights import decode as decode_weights
from fedgrass.federation.weights import sha256
from tests.fakes.memory_cloud import Crash, MemoryDevices
from tests.fakes.small_fleet import FLEET, RUN, SmallFleet, message_of


def test_a_run_whose_rounds_all_close_succeeds() -> None:
    fleet = SmallFleet(devices=3, rounds=3)
    fleet.start()
    for number in (1, 2, 3):
        assert (fleet.newest().number, fleet.newest().state) == (number, State.OPEN)
        for device in fleet.names:
            fleet.reply(device)
    assert (fleet.run().state, fleet.run().reason) == (RunState.SUCCEEDED, "all 3 rounds closed")
    assert fleet.alarms.standing() == []


def test_each_device_of_the_cohort_receives_one_announcement_with_all_that_it_needs() -> None:
    fleet = SmallFleet(devices=3, training={"epochs": 2, "learning_rate": 0.1})
    fleet.start()
    opened = fleet.newest()
    for device in fleet.names:
        (heard,) = fleet.heard(device)
        assert isinstance(heard, Announcement)
        assert (heard.run, heard.round, heard.attempt, heard.work) == (RUN, 1, 1, "train")
        assert heard.model_key == object_keys.model(RUN, 0)
        assert heard.model_sha256 == sha256(fleet.bucket.objects[heard.model_key])
        assert heard.announced_at == opened.opened_at
        assert heard.deadline_seconds == fleet.settings.deadline_seconds
        assert heard.settings == {"epochs": 2, "learning_rate": 0.1}


def test_the_model_is_the_mean_weighted_by_examples_and_the_next_round_starts_from_it() -> None:
    fleet = SmallFleet(devices=2)
    fleet.start()
    fleet.reply("thing-0", value=1.0, examples=30)
    fleet.reply("thing-1", value=5.0, examples=10)
    key = object_keys.model(RUN, 1)
    model = decode_weights(fleet.bucket.objects[key])
    assert model["weight"].tolist() == [[2.0] * 3] * 2
    assert model["batches"].tolist() == 2
    assert model["nothing"].shape == (0, 4)
    heard = fleet.heard("thing-0")[-1]
    assert isinstance(heard, Announcement)
    assert (heard.model_key, heard.model_sha256) == (key, sha256(fleet.bucket.objects[key]))


def test_a_new_model_is_published_on_the_topic_of_its_task_and_kept_as_the_latest() -> None:
    fleet = SmallFleet(devices=1, rounds=1)
    fleet.start()
    fleet.reply("thing-0")
    (told,) = fleet.publisher.on(topics.of_models(FLEET, "digits"))
    news = decode(told, NewModel)
    assert (news.run, news.round, news.key) == (RUN, 1, object_keys.model(RUN, 1))
    assert news.sha256 == sha256(fleet.bucket.objects[news.key])
    assert fleet.bucket.objects[object_keys.latest_model("digits")] == told


def test_enough_replies_close_a_round_before_its_deadline() -> None:
    fleet = SmallFleet(devices=10, threshold=0.7)
    fleet.start()
    for device in fleet.names[:7]:
        assert fleet.newest().number == 1
        fleet.reply(device)
    assert fleet.newest().number == 2


def test_a_deadline_with_the_minimum_closes_the_round_with_what_came() -> None:
    fleet = SmallFleet(devices=4, minimum_replies=2)
    fleet.start()
    fleet.reply("thing-0", value=2)
    fleet.reply("thing-1", value=4)
    fleet.now = fleet.newest().deadline_at
    fleet.heartbeats()
    fleet.ring()
    closed = fleet.rounds.round(RUN, 1, 1)
    assert closed is not None
    assert (closed.state, closed.replied, fleet.newest().number) == (State.CLOSED, 2, 2)
    model = decode_weights(fleet.bucket.objects[object_keys.model(RUN, 1)])
    assert model["weight"].tolist() == [[3.0] * 3] * 2


def test_a_deadline_with_too_few_abandons_the_round_in_words_that_say_why() -> None:
    fleet = SmallFleet(devices=4, minimum_replies=2)
    fleet.start()
    fleet.reply("thing-0")
    fleet.now = fleet.newest().deadline_at
    fleet.heartbeats()
    fleet.ring()
    abandoned = fleet.rounds.round(RUN, 1, 1)
    assert abandoned is not None
    assert abandoned.state is State.ABANDONED
    assert abandoned.reason == ("the deadline passed and too few replied (1 of 4 replied, 2 needed at least)")
    assert object_keys.model(RUN, 1) not in fleet.bucket.objects
    assert any(change.text == f"abandoned: {abandoned.reason}" for change in fleet.told())


def test_an_abandoned_round_is_tried_again_from_the_same_model() -> None:
    fleet = SmallFleet(devices=2, attempts=2)
    fleet.start()
    fleet.now = fleet.newest().deadline_at
    fleet.heartbeats()
    fleet.ring()
    assert (fleet.newest().number, fleet.newest().attempt, fleet.newest().state) == (1, 2, State.OPEN)
    heard = fleet.heard("thing-0")[-1]
    assert isinstance(heard, Announcement)
    assert (heard.attempt, heard.model_key) == (2, object_keys.model(RUN, 0))


def test_a_run_whose_attempts_are_used_up_fails_and_reports_it() -> None:
    fleet = SmallFleet(devices=2, attempts=2)
    fleet.start()
    for _ in range(2):
        fleet.now = fleet.newest().deadline_at
        fleet.heartbeats()
        fleet.ring()
    assert fleet.run().state is RunState.FAILED
    assert fleet.run().reason.startswith("round 1 was abandoned at attempt 2: the deadline passed")
    assert fleet.alarms.standing() == []


def test_a_run_that_is_to_fail_with_an_abandoned_round_does() -> None:
    fleet = SmallFleet(devices=2, on_abandoned="fail")
    fleet.start()
    fleet.now = fleet.newest().deadline_at
    fleet.ring()
    assert (fleet.run().state, fleet.run().attempt) == (RunState.FAILED, 1)


def test_a_round_that_cannot_reach_its_minimum_is_abandoned_without_waiting() -> None:
    fleet = SmallFleet(devices=3, minimum_replies=3, on_abandoned="fail")
    fleet.start()
    fleet.status("thing-1", "failed", reason="no space left on device")
    assert fleet.run().state is RunState.FAILED
    assert "too few devices are left" in fleet.run().reason
    assert "1 failed" in fleet.run().reason
    assert fleet.told_of("thing-1") == ["failed: no space left on device"]


def test_a_round_closes_as_soon_as_no_device_is_pending() -> None:
    fleet = SmallFleet(devices=3)
    fleet.start()
    fleet.reply("thing-0")
    fleet.status("thing-1", "declined", reason="on battery")
    fleet.reply("thing-2")
    assert fleet.newest().number == 2


def test_a_run_of_which_no_device_is_seen_any_more_fails_in_words_that_say_what_to_do() -> None:
    fleet = SmallFleet(devices=1, on_abandoned="fail")
    fleet.start()
    fleet.now += 400_000
    fleet.reply("thing-0")
    fleet.look(600)
    assert fleet.run().state is RunState.FAILED
    assert "no device with the task 'digits' was seen in the last 300 s" in fleet.run().reason


def test_a_random_fraction_is_asked_and_the_same_run_asks_the_same_devices() -> None:
    first, second = (SmallFleet(devices=10, selection="random", fraction=0.3) for _ in range(2))
    first.start()
    second.start()
    asked = [part.device for part in first.rounds.participants(first.newest())]
    assert len(asked) == 3
    assert asked == [part.device for part in second.rounds.participants(second.newest())]
    assert [name for name in first.names if first.heard(name)] == asked


def test_a_round_of_a_thousand_devices_announces_to_every_one() -> None:
    fleet = SmallFleet(devices=1000)
    fleet.start()
    assert all(len(fleet.heard(name)) == 1 for name in fleet.names)


def test_a_device_that_sends_a_hello_receives_its_open_work_again() -> None:
    fleet = SmallFleet(devices=2)
    fleet.start()
    fleet.reply("thing-1")
    fleet.status("thing-0", "accepted")
    fleet.now += 100_000
    for name in fleet.names:
        _hello(fleet, name)
    heard = [message for message in fleet.heard("thing-0") if isinstance(message, Announcement)]
    assert [message.deadline_seconds for message in heard] == [600, 500]
    assert [message.announced_at for message in heard] == [fleet.newest().opened_at] * 2
    assert len([m for m in fleet.heard("thing-1") if isinstance(m, Announcement)]) == 1


def test_a_hello_of_a_device_without_open_work_is_answered_with_nothing() -> None:
    fleet = SmallFleet()
    fleet.start()
    _hello(fleet, "stranger")
    assert fleet.heard("stranger") == []


def test_a_bad_hello_is_refused_in_the_log() -> None:
    fleet = SmallFleet()
    _hello(fleet, "thing-0", b"bm8=")
    about, _, text = fleet.journal.entries[-1]
    assert about == ("", 0, "thing-0")
    assert text.startswith("hello refused: the message is not JSON")


def _hello(fleet: SmallFleet, device: str, payload: bytes = b"eyJ2ZXJzaW9uIjogMX0=") -> None:
    initiator._hello(fleet.cloud, json.dumps({"payload": payload.decode(), "device": device}))


def test_two_workers_that_open_the_same_round_leave_one_round_that_takes_replies() -> None:
    """The participants and the alarm of the losing worker must not affect the winner's round."""
    fleet = SmallFleet(devices=3, deadline_seconds=60)
    second_came = []

    def a_second_worker_opens_it() -> None:
        fleet.now += 40_000
        fleet.heartbeats()
        second_came.append(fleet.start())

    # The first worker has stored participants and an alarm, but no round.
    fleet.counter.plan(a_second_worker_opens_it, name="open_round")
    fleet.start()
    assert second_came
    opened = fleet.newest()
    fleet.now = opened.deadline_at - 20_000
    fleet.ring()
    assert fleet.newest() == opened
    for device in fleet.names:
        fleet.reply(device)
    closed = fleet.rounds.round(RUN, 1, 1)
    assert closed is not None
    assert (closed.state, closed.replied) == (State.CLOSED, 3)
    parts = list(fleet.rounds.participants(closed))
    assert [part.turnaround_seconds for part in parts] == [40.0] * 3


def test_an_alarm_that_opens_the_round_itself_does_not_count_as_its_deadline() -> None:
    """Its worker set the alarm and crashed before it stored the round; the alarm finds no round."""
    fleet = SmallFleet(devices=2, deadline_seconds=60)
    fleet.counter.plan_crash(name="open_round")
    with pytest.raises(Crash):
        fleet.start()
    (alarm,) = fleet.alarms.standing()
    fleet.now = alarm.at
    fleet.heartbeats()
    fleet.ring()
    opened = fleet.newest()
    assert (opened.attempt, opened.state) == (1, State.OPEN)
    assert opened.deadline_at == fleet.now + 60_000


def test_an_alarm_that_comes_a_moment_early_is_not_lost() -> None:
    fleet = SmallFleet(devices=2, on_abandoned="fail")
    fleet.start()
    fleet.now = fleet.newest().deadline_at - 900
    fleet.deliver(message_of(deadline_of(fleet.newest())))
    assert fleet.run().state is RunState.FAILED


def test_the_driver_reads_devices_and_has_no_way_to_write_them() -> None:
    """Each table has one writer: only the heartbeat rule writes devices."""
    fleet = SmallFleet(devices=2, rounds=1)
    before = dict(fleet.devices.seen)
    fleet.start()
    for device in fleet.names:
        fleet.reply(device)
    assert fleet.run().state is RunState.SUCCEEDED
    assert fleet.devices.seen == before
    used = set(fleet.counter.calls)
    ports = [fleet.rounds, fleet.bucket, fleet.publisher, fleet.alarms]
    of_devices = {name for name in dir(MemoryDevices) if not name.startswith("_")}
    others = {name for port in ports for name in dir(port)}
    assert used & (of_devices - others) == {"seen_since"}


def test_a_participant_that_was_asked_first_stays_as_it_was_when_the_opening_is_repeated() -> None:
    fleet = SmallFleet(devices=2)
    fleet.start()
    fleet.rounds.ask(fleet.newest(), ["thing-0", "thing-9"])
    parts = [part.device for part in fleet.rounds.participants(fleet.newest())]
    assert parts == ["thing-0", "thing-1", "thing-9"]
    assert all(part.state is Participation.ASKED for part in fleet.rounds.participants(fleet.newest()))
