"""A round of messages: opened by the ServerApp, announced, counted, closed or abandoned, never retried."""

import msgspec
import pytest

from cloud_functions.monitoring import Metric, metrics_of_ended
from cloud_functions.rounds import hellos, run_actions
from fedgrass.federation import messages, object_keys, topics
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.messages import MessageHeader
from fedgrass.federation.rounds import Participation, State, Work
from fedgrass.federation.runs import RunState
from fedgrass.federation.settings_parser import LARGEST_TRAINING
from fedgrass.federation.task_messages.round_messages import RoundMessages, encode_messages
from fedgrass.federation.topics import Kind
from fedgrass.federation.weights import sha256
from tests.fakes.memory_cloud import Crash
from tests.fakes.message_fleet import MessageFleet, message_to, started
from tests.fakes.small_fleet import FLEET, RUN, crash_at_every_call

ASKED, ACCEPTED, REPLIED = Participation.ASKED, Participation.ACCEPTED, Participation.REPLIED
DECLINED, FAILED, SILENT, LATE = (
    Participation.DECLINED,
    Participation.FAILED,
    Participation.SILENT,
    Participation.LATE,
)


def test_a_round_of_messages_is_opened_announced_counted_and_closed() -> None:
    fleet = started()
    assert fleet.push(group="1") == {"run": RUN, "state": RunState.RUNNING, "round": 1, "reason": ""}
    opened = fleet.newest()
    assert (opened.state, opened.work, opened.asked, opened.aim) == (State.OPEN, Work.MESSAGE, 3, "train 1")
    for device in fleet.names:
        (work,) = fleet.announced(device)
        assert (work.work, work.round, work.model_bytes, work.message_bytes) == ("message", 1, 2_000, 50_000)
        assert work.model_key == object_keys.content(RUN, work.model_sha256)
        assert isinstance(work.message, MessageHeader)
        assert (work.message.type, work.message.group) == ("train", "1")
        fleet.status(device, "accepted")
        fleet.answers(device)
    closed = fleet.sent(1)
    assert (closed.state, closed.replied, closed.metrics) == (State.CLOSED, 3, {"train_loss": 0.5})
    assert (closed.bytes_down, closed.capped) == (150_000, 0)
    assert fleet.parts(closed) == dict.fromkeys(fleet.names, REPLIED)
    assert (fleet.run().published, fleet.run().state) == (1, RunState.RUNNING)
    assert [verdict.counted for verdict in fleet.verdicts("thing-0")] == [True]
    assert [change.text for change in fleet.told()] == [
        "opened: train 1 sent to 3 devices",
        "closed: 3 of 3 devices answered train 1; train_loss 0.5",
    ]
    assert fleet.alarms.standing() == []
    assert object_keys.round_manifest(RUN, 1) in fleet.bucket.objects


def test_each_device_gets_the_header_and_the_content_of_its_own_message() -> None:
    fleet = started(devices=4)
    groups = [
        message_to(["thing-0", "thing-2"], kind="train", group="3", content="a"),
        message_to(["thing-1"], kind="evaluate", group="3", content="b"),
        message_to(["thing-3"], kind="query.histogram", content="c"),
    ]
    fleet.request("send", number=1, sha256=fleet.put(1, groups))
    heard = {device: fleet.announced(device)[0] for device in fleet.names}
    assert [heard[device].model_sha256[0] for device in fleet.names] == ["a", "b", "a", "c"]
    types = [heard[device].message.type for device in fleet.names]  # type: ignore[union-attr]
    assert types == ["train", "evaluate", "train", "query.histogram"]
    assert fleet.newest().aim == "train 3, evaluate 3, query.histogram"


def test_an_announcement_that_is_repeated_has_the_same_message() -> None:
    fleet = started(devices=2, accept_seconds=30)
    groups = [message_to(["thing-0"], content="a"), message_to(["thing-1"], content="b")]
    fleet.request("send", number=1, sha256=fleet.put(1, groups))
    fleet.pass_time(30)
    fleet.remind()
    hellos.answer_hello(fleet.cloud, "thing-1")
    assert [work.model_sha256[0] for work in fleet.announced("thing-0")] == ["a", "a"]
    assert [work.model_sha256[0] for work in fleet.announced("thing-1")] == ["b", "b", "b"]
    assert {work.announced_at for work in fleet.announced("thing-1")} == {fleet.newest().opened_at}
    assert [work.deadline_seconds for work in fleet.announced("thing-1")] == [600, 570, 570]


def test_the_largest_announcement_fits_into_a_message() -> None:
    longest = "t" + "x" * 63
    training = {"text": "x" * (LARGEST_TRAINING - 600 - len('{"text":""}'))}
    fleet = MessageFleet(devices=1, task="flower:" + "a" * 32, training=training, deadline_seconds=604_800)
    fleet.bucket.name = "b" * 63
    run_actions.act(fleet.cloud, {"run": "r" * 64, "settings": msgspec.to_builtins(fleet.settings)})
    message = msgspec.structs.replace(
        message_to(fleet.names, kind=f"{longest}.{longest}", group="\x01" * 128, ttl=2**53 - 0.5),
        bytes=2**53,
        holds=2**53,
    )
    data = encode_messages(RoundMessages(groups=(message,)))
    fleet.bucket.write(object_keys.messages("r" * 64, 1), data)
    fleet.request("send", run="r" * 64, number=1, sha256=sha256(data))
    (payload,) = fleet.publisher.on(topics.of_device(FLEET, "thing-0", Kind.ANNOUNCE))
    assert 3500 < len(payload) <= messages.LARGEST_MESSAGE
    with pytest.raises(SettingsError, match=r"at most 2,300 are allowed next to a ServerApp's message"):
        MessageFleet(training={"text": training["text"] + "x"})


def test_the_overrides_of_the_apps_configuration_reach_its_devices() -> None:
    fleet = started(training={"lr": 0.01})
    fleet.push()
    assert fleet.announced("thing-0")[0].settings == {"lr": 0.01}


@pytest.mark.parametrize(("ttl", "deadline"), [(20.0, 20), (3600.0, 600), (0.5, 0.5)])
def test_a_round_is_due_after_the_time_to_live_and_at_most_after_the_runs_deadline(
    ttl: float, deadline: float
) -> None:
    fleet = started()
    fleet.push(ttl=ttl)
    opened = fleet.newest()
    assert opened.deadline_at - opened.opened_at == deadline * 1000
    assert [alarm.at for alarm in fleet.alarms.standing()] == [opened.deadline_at]


def test_each_device_has_as_much_time_as_its_own_message_lives() -> None:
    fleet = started(devices=2)
    groups = [message_to(["thing-0"], ttl=10), message_to(["thing-1"], ttl=40, content="b")]
    fleet.request("send", number=1, sha256=fleet.put(1, groups))
    assert [fleet.announced(device)[0].deadline_seconds for device in fleet.names] == [10, 40]
    assert fleet.newest().deadline_at - fleet.newest().opened_at == 40_000


def test_a_round_closes_when_each_device_has_replied_or_will_not() -> None:
    fleet = started(devices=4, accept_seconds=30)
    fleet.push()
    fleet.status("thing-0", "declined", reason="busy with run-2")
    fleet.status("thing-1", "failed", reason="the app raised ValueError: no data")
    fleet.answers("thing-2")
    assert fleet.newest().state is State.OPEN
    fleet.pass_time(30)
    fleet.remind()
    fleet.pass_time(30)
    fleet.remind()
    closed = fleet.sent(1)
    assert (closed.state, closed.good) == (State.CLOSED, 1)
    assert fleet.parts(closed) == {
        "thing-0": DECLINED,
        "thing-1": FAILED,
        "thing-2": REPLIED,
        "thing-3": SILENT,
    }
    assert fleet.part("thing-1", closed).reason == "the app raised ValueError: no data"
    assert len(fleet.announced("thing-3")) == 2


def test_a_device_with_an_older_component_that_does_not_accept_is_declined_by_name() -> None:
    fleet = started(devices=3, accept_seconds=30)
    fleet.outdate("thing-1")
    del fleet.devices.seen["thing-2"]
    fleet.push()
    fleet.answers("thing-0")
    fleet.now += 30_000
    fleet.remind()
    assert fleet.parts() == {"thing-0": REPLIED, "thing-1": DECLINED, "thing-2": ASKED}
    assert fleet.part("thing-1").reason == (
        "its trainer component 0.3.0 does not know messages of ServerApps: deploy com.fedgrass.Trainer of"
        " this release"
    )
    assert [len(fleet.announced(device)) for device in fleet.names] == [1, 1, 2]


def test_a_silent_device_is_not_replaced_by_another_one_of_the_fleet() -> None:
    fleet = started(devices=5, accept_seconds=30)
    fleet.push(["thing-0", "thing-1"])
    for _ in range(2):
        fleet.pass_time(30)
        fleet.remind()
    ended = fleet.sent(1)
    assert (ended.state, ended.silent, ended.asked) == (State.ABANDONED, 2, 2)
    assert sorted(fleet.parts(ended)) == ["thing-0", "thing-1"]
    assert "2 devices have not accepted and are given up: thing-0, thing-1" in [
        change.text for change in fleet.told()
    ]


def test_more_silent_devices_than_one_write_takes_are_all_given_up() -> None:
    fleet = started(devices=120, accept_seconds=30)
    fleet.push()
    fleet.answers("thing-0")
    for _ in range(2):
        fleet.pass_time(30)
        fleet.remind()
    assert (fleet.sent(1).state, fleet.sent(1).silent) == (State.CLOSED, 119)


def test_a_silent_device_that_replies_while_the_round_is_open_counts() -> None:
    fleet = started(devices=2, accept_seconds=30)
    fleet.push()
    fleet.status("thing-1", "accepted")
    for _ in range(2):
        fleet.pass_time(30)
        fleet.remind()
    assert fleet.parts() == {"thing-0": SILENT, "thing-1": ACCEPTED}
    fleet.answers("thing-0")
    fleet.answers("thing-1")
    assert (fleet.sent(1).replied, fleet.sent(1).silent) == (2, 0)


def test_a_round_without_a_reply_is_abandoned_once_and_the_run_waits_for_its_server_app() -> None:
    fleet = started()
    fleet.push(group="1")
    for device in fleet.names:
        fleet.status(device, "declined", reason="on battery")
    ended = fleet.sent(1)
    assert (ended.state, ended.attempt) == (State.ABANDONED, 1)
    assert ended.reason.startswith("too few devices are left to reach the minimum (0 of 3 replied")
    assert (fleet.run().state, fleet.run().round, fleet.run().published) == (RunState.RUNNING, 1, 1)
    fleet.pass_time(3600)
    fleet.ring()
    fleet.remind()
    assert fleet.rounds.round(RUN, 1, 2) is None
    fleet.push(group="2")
    fleet.all_answer()
    assert (fleet.sent(2).state, fleet.run().published) == (State.CLOSED, 2)


def test_at_its_deadline_a_round_closes_with_the_replies_that_it_has() -> None:
    fleet = started()
    fleet.push(ttl=60)
    fleet.answers("thing-1")
    fleet.pass_time(60)
    fleet.ring()
    closed = fleet.sent(1)
    assert (closed.state, closed.good, closed.outstanding) == (State.CLOSED, 1, 2)
    assert fleet.parts(closed) == {"thing-0": ASKED, "thing-1": REPLIED, "thing-2": ASKED}


def test_an_alarm_that_rings_a_moment_early_ends_the_round() -> None:
    fleet = started()
    fleet.push(ttl=60)
    (alarm,) = fleet.alarms.standing()
    fleet.pass_time(59.9)
    fleet.deliver({"alarm": {name: getattr(alarm, name) for name in alarm.__struct_fields__}})
    assert fleet.sent(1).state is State.ABANDONED


def test_a_round_without_replies_is_abandoned_at_its_deadline() -> None:
    fleet = started()
    fleet.push(ttl=60)
    fleet.pass_time(60)
    fleet.ring()
    assert fleet.sent(1).state is State.ABANDONED
    assert fleet.sent(1).reason.startswith("the deadline passed and too few replied")


def test_a_reply_is_counted_once_however_often_and_late_it_arrives() -> None:
    fleet = started(devices=2)
    fleet.push()
    for _ in range(3):
        fleet.answers("thing-0")
    assert fleet.sent(1).replied == 1
    fleet.answers("thing-1")
    fleet.answers("thing-0")
    closed = fleet.sent(1)
    assert (closed.state, closed.replied, closed.late) == (State.CLOSED, 2, 0)
    assert [verdict.counted for verdict in fleet.verdicts("thing-0")] == [True] * 4


def test_a_reply_after_the_end_is_late_and_is_told_so() -> None:
    fleet = started(devices=2)
    fleet.push(ttl=60)
    fleet.answers("thing-0")
    fleet.pass_time(60)
    fleet.ring()
    fleet.answers("thing-1", number=1)
    closed = fleet.sent(1)
    assert (fleet.parts(closed)["thing-1"], closed.late, closed.replied) == (LATE, 1, 1)
    assert fleet.verdicts("thing-1")[0].reason == "late: this attempt is CLOSED"


def test_a_reply_that_overtakes_the_acceptance_counts_and_the_acceptance_changes_nothing() -> None:
    fleet = started(devices=2)
    fleet.push()
    fleet.answers("thing-0")
    fleet.status("thing-0", "accepted")
    assert fleet.parts() == {"thing-0": REPLIED, "thing-1": ASKED}


def test_a_device_that_got_no_message_of_the_round_is_refused_by_name() -> None:
    fleet = started()
    fleet.push(["thing-0"])
    fleet.answers("thing-1")
    assert fleet.told_of("thing-1") == ["complete refused: 'thing-1' was not asked in this round"]
    assert fleet.newest().state is State.OPEN


def test_the_inline_reply_is_kept_for_the_server_app_but_not_in_the_rounds_manifest() -> None:
    fleet = started(devices=1)
    fleet.push()
    fleet.answers("thing-0", data=b"the reply")
    assert fleet.part("thing-0").answer == "dGhlIHJlcGx5"
    assert b"dGhlIHJlcGx5" not in fleet.bucket.objects[object_keys.round_manifest(RUN, 1)]


def test_a_round_whose_list_was_lost_before_it_was_announced_is_abandoned_with_that_reason() -> None:
    fleet = started()
    listed = fleet.put(1, [message_to(fleet.names)])
    fleet.counter.plan_crash(name="publish")
    with pytest.raises(Crash):
        fleet.request("send", number=1, sha256=listed)
    del fleet.bucket.objects[object_keys.messages(RUN, 1)]
    fleet.request("send", number=1, sha256=listed)
    assert fleet.sent(1).state is State.ABANDONED
    assert "the bucket has no list of messages rounds/run-1/1.messages.json" in fleet.sent(1).reason


def test_a_lost_list_does_not_keep_a_hello_of_another_run_from_its_work() -> None:
    fleet = started()
    fleet.push()
    del fleet.bucket.objects[object_keys.messages(RUN, 1)]
    hellos.answer_hello(fleet.cloud, "thing-0")
    assert any(line.startswith("not announced again to 1 devices: the bucket") for line in fleet.log)
    fleet.remind()  # nor does a reminder raise: its devices are given up in their turn
    fleet.remind()
    assert fleet.sent(1).state is State.ABANDONED


def test_a_worker_may_crash_at_every_call_of_send_and_the_round_is_opened_once() -> None:
    fleet = started()
    listed = fleet.put(1, [message_to(fleet.names)])

    def send_later(fleet: MessageFleet) -> None:  # when a lease of the crashed worker has ended
        fleet.pass_time(31)
        fleet.request("send", number=1, sha256=listed)

    crashes = crash_at_every_call(fleet, send_later)
    assert crashes > 5
    assert (fleet.sent(1).asked, fleet.sent(1).announced, fleet.run().round) == (3, True, 1)
    assert all(fleet.announced(device) for device in fleet.names)


def test_a_worker_may_crash_at_every_call_of_the_closing_and_each_reply_counts_once() -> None:
    call, crashed = 0, True
    while crashed:
        call += 1
        fleet = started(devices=2)
        fleet.push()
        fleet.answers("thing-0")
        fleet.counter.plan_crash(call=call)
        crashed = False
        try:
            fleet.answers("thing-1")
        except Crash:
            crashed = True
            fleet.pass_time(61)  # the lease of the crashed worker ends
            fleet.answers("thing-1")
        closed = fleet.sent(1)
        assert (closed.state, closed.replied, closed.late, fleet.run().published) == (State.CLOSED, 2, 0, 1)
        assert object_keys.round_manifest(RUN, 1) in fleet.bucket.objects
    assert call > 10


def test_the_accuracy_of_evaluations_is_a_metric_of_the_fleet_and_that_of_training_is_not() -> None:
    fleet = started(devices=1)
    for kind in ("train", "evaluate"):
        fleet.push(kind=kind)
        fleet.answers("thing-0", metrics={"accuracy": 0.75})
    trained, evaluated = (dict(metrics_of_ended(fleet.sent(number))) for number in (1, 2))
    assert Metric.ACCURACY not in trained
    assert evaluated[Metric.ACCURACY] == 0.75
    assert trained[Metric.ROUNDS_CLOSED] == 1
    assert Metric.UPDATES_ACCEPTED not in trained


def test_the_alarm_is_set_before_the_round_exists() -> None:
    fleet = started()
    fleet.counter.plan_crash(name="open_round")
    listed = fleet.put(1, [message_to(fleet.names)])
    with pytest.raises(Crash):
        fleet.request("send", number=1, sha256=listed)
    assert len(fleet.alarms.standing()) == 1
    fleet.pass_time(3600)
    fleet.ring()  # of a round that was never opened
    assert fleet.run().round == 0
