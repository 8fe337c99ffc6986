"""An alias is moved by conditional writes, with its history, and announced to the devices that follow it."""

from functools import partial
from typing import Any

import msgspec
import pytest

from cloud_functions import initiator, wiring
from cloud_functions.models.alias_actions import promote, rollback
from fedgrass.federation import messages, object_keys, topics
from fedgrass.federation.errors import MessageError, SettingsError
from fedgrass.federation.messages import ModelAlias, NewModel
from fedgrass.federation.models.imported_model import ImportedModel
from fedgrass.federation.models.model_alias import MOST_CHANGES, AliasRecord, decode_record
from fedgrass.federation.rounds import State
from fedgrass.federation.runs import RunState
from fedgrass.federation.weights import sha256
from tests.fakes.small_fleet import FLEET, RUN, SmallFleet
from tests.unit.cloud.rounds.test_actions_done_once import Context

KEY = object_keys.model_alias("digits", "production")
ANN, BOB = "arn:aws:iam::1:user/ann", "arn:aws:iam::1:user/bob"


def trained(rounds: int = 3, **settings: Any) -> SmallFleet:
    fleet = SmallFleet(rounds=rounds, **settings)
    fleet.start()
    while fleet.run().state is RunState.RUNNING:
        for device in fleet.parts():
            fleet.reply(device, fleet.newest())
    return fleet


def record(fleet: SmallFleet) -> AliasRecord:
    return decode_record(fleet.bucket.objects[KEY], KEY)


def told(fleet: SmallFleet) -> list[tuple[int, str]]:
    """Return serial and model of each message to the devices that follow the alias."""
    found = fleet.publisher.on(topics.of_alias(FLEET, "digits", "production"))
    decoded = [messages.decode(text, ModelAlias) for text in found]
    return [(message.serial, f"{message.model.run}/{message.model.round}") for message in decoded]


def move(fleet: SmallFleet, number: int, by: str = ANN, **event: Any) -> dict[str, Any]:
    asked = {"run": RUN, "round": number, "alias": "production", "by": by, "id": f"{by}{number}", **event}
    return promote(fleet.cloud, asked)


def back(fleet: SmallFleet, identity: str = "back", **event: Any) -> dict[str, Any]:
    asked = {"task": "digits", "alias": "production", "by": BOB, "id": identity, **event}
    return rollback(fleet.cloud, asked)


def test_a_promoted_model_is_named_as_it_was_published_and_announced() -> None:
    fleet = trained()
    answer = move(fleet, 2)
    assert answer == {
        "alias": "production",
        "task": "digits",
        "run": RUN,
        "round": 2,
        "serial": 1,
        "changed": True,
    }
    published = [
        messages.decode(text, NewModel) for text in fleet.publisher.on(topics.of_models(FLEET, "digits"))
    ]
    assert record(fleet).model == published[1]  # the same message: a predictor recognises what it serves
    assert told(fleet) == [(1, f"{RUN}/2")]
    (change,) = record(fleet).history
    assert (change.by, change.at, change.action, change.from_run) == (ANN, fleet.now, "promote", "")


def test_the_initial_model_can_be_promoted() -> None:
    fleet = trained()
    move(fleet, 0)
    model = record(fleet).model
    assert (model.round, model.sha256) == (0, sha256(fleet.bucket.objects[object_keys.model(RUN, 0)]))


def test_rollbacks_lead_to_the_model_before_and_then_to_the_one_before_that() -> None:
    fleet = trained()
    for number in (1, 2, 3):
        move(fleet, number)
    assert back(fleet, "a")["round"] == 2
    assert back(fleet, "b")["round"] == 1
    with pytest.raises(SettingsError, match=f"has no model before {RUN}/1: promote another one"):
        back(fleet, "c")
    assert told(fleet) == [
        (1, f"{RUN}/1"),
        (2, f"{RUN}/2"),
        (3, f"{RUN}/3"),
        (4, f"{RUN}/2"),
        (5, f"{RUN}/1"),
    ]
    assert [(one.action, one.by, one.from_round, one.round) for one in record(fleet).history][-2:] == [
        ("rollback", BOB, 3, 2),
        ("rollback", BOB, 2, 1),
    ]


def test_an_action_that_is_delivered_twice_moves_the_alias_once() -> None:
    fleet = trained()
    for number in (1, 2, 3):
        move(fleet, number)
    assert back(fleet)["changed"]
    assert not back(fleet)["changed"]
    assert (record(fleet).serial, record(fleet).model.round) == (4, 2)


def test_a_model_that_is_promoted_again_is_only_announced_again() -> None:
    fleet = trained()
    move(fleet, 2)
    assert not move(fleet, 2, by=BOB)["changed"]
    assert told(fleet) == [(1, f"{RUN}/2")] * 2


def test_of_two_operators_at_once_the_second_is_refused_and_the_first_named() -> None:
    fleet = trained()
    move(fleet, 1)
    fleet.counter.plan(partial(move, fleet, 3, by=BOB), name="write_over")
    with pytest.raises(SettingsError) as refused:
        move(fleet, 2)
    assert str(refused.value).startswith(
        f"alias 'production' of the task 'digits' was moved to {RUN}/3 since then, by {BOB} at 2023-11-14"
    )
    assert record(fleet).model.round == 3
    assert told(fleet)[-1] == (2, f"{RUN}/3")


def test_an_operator_who_saw_an_earlier_state_of_the_alias_is_refused() -> None:
    fleet = trained()
    move(fleet, 1, serial=0)
    with pytest.raises(SettingsError, match=f"was moved to {RUN}/1 since then, by {ANN}"):
        move(fleet, 2, by=BOB, serial=0)
    move(fleet, 2, by=BOB, serial=1)


def test_a_write_whose_answer_was_lost_counts_as_done() -> None:
    fleet = trained()
    fleet.counter.plan(partial(move, fleet, 2), name="write_over")  # the same action, by a retry
    assert move(fleet, 2)["serial"] == 1
    assert len(record(fleet).history) == 1


@pytest.mark.parametrize(
    ("event", "words"),
    [
        ({"run": "other"}, "there is no run and no imported model 'other'"),
        ({"round": 9}, f"round 9 of run '{RUN}' has not closed, so it has made no model"),
        ({"round": 4}, f"only evaluated a model: that one is {RUN}/3"),
        ({"task": "cracks"}, f"{RUN}/1 is a model of the task 'digits', not of 'cracks'"),
        ({"alias": "Production!"}, "'Production!' cannot name an alias"),
        ({"alias": "latest"}, "'latest' always names the newest model of a task"),
        ({"round": None}, "the event names no round"),
        ({"round": True}, "the event's round is true; it takes a whole number from 0"),
        ({"by": 5}, "the event's by is 5; it takes a printable text"),
    ],
)
def test_what_cannot_be_promoted_is_refused_by_name(event: dict[str, Any], words: str) -> None:
    fleet = trained(evaluate_last=True)
    with pytest.raises(SettingsError) as refused:
        move(fleet, 1, **event)
    assert words in str(refused.value)
    assert KEY not in fleet.bucket.objects


def test_a_model_whose_file_is_gone_is_not_promoted() -> None:
    fleet = trained()
    del fleet.bucket.objects[object_keys.model(RUN, 2)]
    with pytest.raises(SettingsError, match=rf"object models/{RUN}/2\.safetensors is missing"):
        move(fleet, 2)


def test_a_model_of_a_run_whose_rows_are_lost_is_promoted_by_its_manifest() -> None:
    fleet = trained()
    before = fleet.newest()
    assert before.state is State.CLOSED
    fleet.rounds.__init__()  # type: ignore[misc] # an empty table
    move(fleet, 2)
    assert record(fleet).model.closed_at > 0


def test_an_imported_model_is_promoted_by_its_record() -> None:
    fleet = trained()
    imported = ImportedModel(name="base", task="digits", sha256="a" * 64, bytes=5, imported_at=7)
    fleet.bucket.write(object_keys.imported_model("base"), msgspec.json.encode(imported))
    fleet.bucket.write(object_keys.model("base", 0), b"12345")
    move(fleet, 0, run="base")
    assert (record(fleet).model.sha256, record(fleet).model.closed_at) == ("a" * 64, 7)
    with pytest.raises(SettingsError, match="whose only one is base/0"):
        move(fleet, 1, run="base")


def test_a_rollback_of_an_alias_that_does_not_exist_is_refused() -> None:
    with pytest.raises(SettingsError, match="there is no alias 'production' of the task 'digits'"):
        back(trained(1))


def test_a_damaged_record_is_named_and_left_alone() -> None:
    fleet = trained(1)
    fleet.bucket.write(KEY, b"{}")
    with pytest.raises(MessageError, match=rf"object {KEY} is damaged"):
        move(fleet, 1)
    assert fleet.bucket.objects[KEY] == b"{}"


def test_the_history_keeps_its_last_entries_and_stays_small() -> None:
    fleet = trained(2)
    for turn in range(MOST_CHANGES + 5):
        move(fleet, 1 + turn % 2, by="\u20ac" * 256, id=str(turn))
    assert len(record(fleet).history) == MOST_CHANGES
    assert record(fleet).serial == MOST_CHANGES + 5
    assert back(fleet)["changed"]


def test_the_initiator_performs_both_actions_and_returns_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = trained(2)
    monkeypatch.setattr(wiring, "services", lambda *_, **__: fleet.cloud)
    for number in (1, 2):
        event = {"action": "promote", "run": RUN, "round": number, "alias": "production"}
        assert initiator.handler(event, Context(f"request-{number}"))["serial"] == number
    event = {"action": "rollback", "task": "digits", "alias": "production"}
    assert initiator.handler(event, Context("request-3"))["round"] == 1
    assert "has no model before" in initiator.handler(event, Context("request-4"))["refused"]
