"""What a ServerApp and its operator may request of a run: start, send, devices, finish; what is refused."""

from typing import Any

import msgspec
import pytest

from cloud_functions.initiator import _perform
from cloud_functions.server_apps import device_list
from fedgrass.federation import object_keys
from fedgrass.federation.rounds import State
from fedgrass.federation.runs import RunState
from fedgrass.federation.weights import sha256
from tests.fakes.message_fleet import MessageFleet, message_to, started
from tests.fakes.small_fleet import RUN, SmallFleet

SETTINGS = {"task": "digits", "mode": "server_app"}


def unstarted(devices: int = 3) -> MessageFleet:
    fleet = MessageFleet(devices=devices)
    fleet.bucket.objects.clear()  # there is no initial model
    return fleet


# ---------------------------------------------------------------- start
def test_a_run_with_a_server_app_starts_without_a_model_and_waits() -> None:
    fleet = unstarted()
    answer = fleet.request("start", settings=SETTINGS)
    assert answer == {"run": RUN, "state": RunState.RUNNING, "round": 0, "reason": ""}
    assert list(fleet.bucket.objects) == [object_keys.run_manifest(RUN)]
    for _ in range(3):
        fleet.pass_time(3600)
        fleet.ring()
        fleet.remind()
        fleet.deliver({"sweep": {}})
    assert (fleet.run().state, fleet.run().round) == (RunState.RUNNING, 0)
    assert fleet.request("start", settings=SETTINGS)["round"] == 0


def test_a_run_for_which_no_device_has_the_task_is_refused() -> None:
    fleet = unstarted()
    answer = fleet.request("start", settings={**SETTINGS, "task": "flower:quickstart"})
    assert answer["refused"].startswith(
        "no device with the task 'flower:quickstart' was seen in the last 300 s"
    )


def test_another_run_of_that_name_is_refused() -> None:
    fleet = started()
    answer = fleet.request("start", settings={**SETTINGS, "deadline_seconds": 60})
    assert answer["refused"] == "run 'run-1' already exists with different settings: choose another name"


def test_it_continues_from_no_model_and_no_run_continues_from_it() -> None:
    fleet = started()
    source = {"run": "old", "round": 3}
    answer = _perform(fleet.cloud, {"run": "run-2", "settings": SETTINGS, "continue_from": source})
    assert (
        answer["refused"]
        == "the model of a run with a ServerApp is in its ServerApp: leave continue_from out"
    )
    source = {"run": RUN, "round": 1}
    answer = _perform(fleet.cloud, {"run": "run-3", "settings": {"task": "digits"}, "continue_from": source})
    assert answer["refused"].startswith("run 'run-1' has a ServerApp, and the models that it made are there")


# ---------------------------------------------------------------- devices
def test_the_devices_are_those_with_the_task_that_were_seen_and_meet_the_conditions() -> None:
    fleet = MessageFleet(devices=0, where='site == "north"', seen_within_seconds=100, minimum_examples=5)
    for name, at, tasks, examples, site in (
        ("b", 0, "digits,other", 9, "north"),
        ("a", 0, "digits", 9, "north"),
        ("other-task", 0, "other", 9, "north"),
        ("long-gone", -101, "digits", 9, "north"),
        ("empty", 0, "digits", 4, "north"),
        ("elsewhere", 0, "digits", 9, "south"),
    ):
        fleet.devices.heartbeat(name, fleet.now + at * 1000, tasks, examples, site=site)
    fleet.start()
    assert fleet.request("devices") == {"devices": ["a", "b"]}


def test_the_devices_of_a_thing_group_are_those_in_it_at_that_moment() -> None:
    fleet = MessageFleet(devices=3, thing_group="north")
    fleet.thing_groups.groups["north"] = {"thing-1", "gone"}
    fleet.start()
    assert fleet.request("devices") == {"devices": ["thing-1"]}
    fleet.thing_groups.groups["north"].add("thing-2")
    assert fleet.request("devices") == {"devices": ["thing-1", "thing-2"]}


def test_devices_with_an_older_trainer_component_are_left_out() -> None:
    fleet = MessageFleet(devices=2)
    fleet.outdate("thing-1")
    fleet.start()
    assert fleet.request("devices") == {"devices": ["thing-0"]}


def test_a_fleet_of_older_trainer_components_is_refused_with_what_to_deploy() -> None:
    fleet = unstarted(devices=1)
    fleet.outdate("thing-0")
    refused = fleet.request("start", settings=SETTINGS)["refused"]
    assert refused.endswith(
        "0 of them have a trainer component that knows messages of ServerApps; they have the version 0.3.0:"
        " deploy com.fedgrass.Trainer of this release"
    )


def test_a_run_whose_devices_have_all_gone_lists_none() -> None:
    fleet = started()
    fleet.now += 301_000
    assert fleet.request("devices") == {"devices": []}


def test_more_names_than_a_function_returns_are_refused_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fleet = started(devices=3)
    monkeypatch.setattr(device_list, "LARGEST_ANSWER", 30)
    assert fleet.request("devices")["refused"].endswith("narrow the run's `where` or thing_group")


# ---------------------------------------------------------------- send
@pytest.mark.parametrize("number", [0, -1, True, "1", 1.0, None, 2**60])
def test_a_number_that_is_none_is_refused(number: object) -> None:
    answer = started().request("send", number=number, sha256="a" * 64)
    assert answer["refused"].startswith("the action's number is ")
    assert answer["refused"].endswith("it takes the number of the round to open, from 1")


@pytest.mark.parametrize("given", ["", "A" * 64, "a" * 63, None, 7])
def test_a_sha256_that_is_none_is_refused(given: object) -> None:
    answer = started().request("send", number=1, sha256=given)
    assert answer["refused"].startswith("the action's sha256 is ")


def test_a_round_that_is_not_the_next_one_is_refused() -> None:
    answer = started().push(number=3)
    assert answer["refused"] == "the action's number is 3, but the next round of run 'run-1' is 1"


def test_a_list_that_is_not_in_the_bucket_is_refused() -> None:
    answer = started().request("send", number=1, sha256="a" * 64)
    assert answer["refused"].startswith("the bucket has no list of messages rounds/run-1/1.messages.json")


def test_a_list_with_another_sha256_is_refused() -> None:
    fleet = started()
    fleet.put(1, [message_to(fleet.names)])
    answer = fleet.request("send", number=1, sha256="a" * 64)
    assert "and should be aaaa" in answer["refused"]
    assert fleet.run().round == 0


def test_a_list_that_is_none_is_refused_without_a_trace() -> None:
    fleet = started()
    data = b'{"groups": []}'
    fleet.bucket.write(object_keys.messages(RUN, 1), data)
    answer = fleet.request("send", number=1, sha256=sha256(data))
    assert answer["refused"].startswith("the list of the round's messages cannot be decoded: ")
    assert (fleet.run().round, fleet.alarms.standing()) == (0, [])


def test_a_list_that_cannot_be_read_is_refused() -> None:
    fleet = started()
    listed = fleet.put(1, [message_to(fleet.names)])
    fleet.bucket.unreadable[object_keys.messages(RUN, 1)] = "AccessDenied"
    assert "cannot be read" in fleet.request("send", number=1, sha256=listed)["refused"]


def test_the_same_messages_sent_again_change_nothing_even_when_the_run_has_ended() -> None:
    fleet = started()
    listed = fleet.put(1, [message_to(fleet.names)])
    first = fleet.request("send", number=1, sha256=listed)
    assert fleet.request("send", number=1, sha256=listed) == first
    assert len(fleet.announced("thing-0")) == 1
    fleet.all_answer()
    fleet.request("finish")
    again = fleet.request("send", number=1, sha256=listed)
    assert (again["state"], again["round"]) == (RunState.SUCCEEDED, 1)
    assert fleet.sent(1).state is State.CLOSED


def test_other_messages_under_a_number_that_is_taken_are_refused_as_those_of_another_server_app() -> None:
    fleet = started()
    fleet.push()
    answer = fleet.request("send", number=1, sha256="b" * 64)
    assert answer["refused"].startswith(
        "round 1 of run 'run-1' was opened for other messages: another ServerApp drives this run"
    )


def test_two_server_apps_that_send_at_the_same_moment_open_the_round_once() -> None:
    fleet = started()
    listed = fleet.put(1, [message_to(fleet.names)])
    other: dict[str, Any] = {}
    fleet.counter.plan(
        lambda: other.update(fleet.request("send", number=1, sha256=listed)), name="open_round"
    )
    mine = fleet.request("send", number=1, sha256=listed)
    assert mine == other
    assert (fleet.run().round, len(fleet.announced("thing-0"))) == (1, 1)


def test_a_run_that_is_paused_at_that_moment_opens_no_round() -> None:
    fleet = started()
    listed = fleet.put(1, [message_to(fleet.names)])
    fleet.counter.plan(lambda: fleet.request("pause"), name="open_round")
    refused = fleet.request("send", number=1, sha256=listed)["refused"]
    assert refused.startswith("run 'run-1' is PAUSED, and sends no messages: `fedgrass run resume run-1`")
    assert fleet.rounds.round(RUN, 1, 1) is None
    fleet.request("resume")
    fleet.pass_time(60)
    fleet.request("send", number=1, sha256=listed)
    assert fleet.announced("thing-0")[0].announced_at == fleet.now
    fleet.all_answer()
    assert fleet.sent(1).state is State.CLOSED


def test_an_ended_run_sends_nothing() -> None:
    fleet = started()
    fleet.request("cancel")
    refused = fleet.push(number=1)["refused"]
    assert refused == "run 'run-1' is CANCELLED (cancelled by the operator), and sends no messages"


def test_a_round_that_the_bucket_has_closed_is_not_opened_again() -> None:
    fleet = started()
    fleet.push()
    fleet.all_answer()
    lost = msgspec.structs.replace(fleet.run(), round=0, attempt=0, published=0)
    fleet.rounds.restore_run(lost, fleet.run())
    fleet.rounds.lose_round(fleet.sent(1))
    assert "`fedgrass run repair run-1`" in fleet.push(number=1)["refused"]


def test_a_run_whose_row_is_older_than_its_rounds_is_refused_and_does_not_loop() -> None:
    fleet = started()
    before = fleet.run()
    fleet.push()
    for device in fleet.names:
        fleet.status(device, "declined")  # an abandoned round has no manifest
    fleet.rounds.restore_run(before, fleet.run())
    fleet.counter.most = len(fleet.counter.calls) + 50
    refused = fleet.push(number=1)["refused"]
    assert refused == (
        "the row of run run-1 is at round 0, and the table has round 1: `fedgrass run repair run-1` compares"
        " table and bucket"
    )


@pytest.mark.parametrize("action", ["send", "finish", "devices"])
def test_these_actions_are_for_runs_with_a_server_app(action: str) -> None:
    fleet = SmallFleet()
    fleet.start()
    answer = _perform(fleet.cloud, {"action": action, "run": RUN, "number": 1, "sha256": "a" * 64})
    assert answer["refused"].startswith(
        "run 'run-1' has the mode 'synchronous'; this action is for runs with a ServerApp (mode 'server_app')"
    )


@pytest.mark.parametrize("action", ["send", "finish", "devices"])
def test_these_actions_name_a_run_that_does_not_exist(action: str) -> None:
    assert unstarted().request(action)["refused"].startswith("there is no run 'run-1'")


# ---------------------------------------------------------------- finish, retry, next
def test_a_run_finishes_once_whatever_is_delivered_again() -> None:
    fleet = started()
    assert fleet.request("finish", id="1")["state"] is RunState.SUCCEEDED
    assert fleet.request("finish", id="1")["reason"] == "the ServerApp has ended"
    assert fleet.request("finish", id="2")["refused"].startswith("run 'run-1' is SUCCEEDED")


def test_a_failed_server_app_is_named_and_its_run_may_be_taken_up_again() -> None:
    fleet = started()
    fleet.push()
    fleet.request("finish", failed="ValueError: " + "x" * 1000)
    assert fleet.run().state is RunState.FAILED
    assert fleet.run().reason.startswith("the ServerApp failed: ValueError: xxx")
    assert len(fleet.run().reason) == 512
    assert fleet.request("retry")["state"] is RunState.RUNNING
    assert (fleet.run().reason, fleet.run().ended_at) == ("", 0)
    assert fleet.push()["round"] == 2
    fleet.all_answer()
    assert fleet.run().published == 2


def test_a_reason_that_is_no_text_is_refused() -> None:
    assert started().request("finish", failed=True)["refused"].startswith("the action's failed is true")


def test_a_running_run_has_nothing_to_retry_and_no_next_round() -> None:
    fleet = started()
    fleet.push()
    assert "nothing to retry" in fleet.request("retry")["refused"]
    assert "opened by its ServerApp" in fleet.request("next")["refused"]
    assert fleet.newest().state is State.OPEN


def test_a_run_whose_row_is_older_than_a_round_is_refused_with_the_repair_that_it_needs() -> None:
    fleet = started()
    fleet.push()
    for device in fleet.names:
        fleet.status(device, "failed", fleet.sent(1), "no data")
    assert fleet.sent(1).state is State.ABANDONED  # which leaves no manifest
    fleet.rounds._runs[RUN] = msgspec.structs.replace(fleet.run(), round=0, published=0)
    assert fleet.push()["refused"] == (
        "the row of run run-1 is at round 0, and the table has round 1: `fedgrass run repair run-1` compares"
        " table and bucket"
    )
