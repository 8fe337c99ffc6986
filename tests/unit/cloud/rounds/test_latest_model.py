"""The pointer to a task's latest model: always published, and never moved backwards."""

from functools import partial

import pytest

from cloud_functions.rounds.publish import make_latest
from fedgrass.federation import messages, object_keys, topics
from fedgrass.federation.errors import MessageError
from fedgrass.federation.messages import NewModel
from fedgrass.federation.rounds import State
from fedgrass.federation.runs import RunState
from fedgrass.federation.weights import encode
from tests.fakes.memory_cloud import Crash
from tests.fakes.small_fleet import FLEET, INITIAL, RUN, SmallFleet

KEY = object_keys.latest_model("digits")


def a_model(run: str = RUN, number: int = 1, closed_at: int = 1000) -> NewModel:
    return NewModel(
        task="digits",
        run=run,
        round=number,
        bucket="bucket",
        key=object_keys.model(run, number),
        sha256="a" * 64,
        bytes=1,
        closed_at=closed_at,
    )


def pointer(fleet: SmallFleet) -> NewModel:
    return messages.decode(fleet.bucket.objects[KEY], NewModel)


def published(fleet: SmallFleet) -> list[tuple[str, int]]:
    told = [messages.decode(text, NewModel) for text in fleet.publisher.on(topics.of_models(FLEET, "digits"))]
    return [(model.run, model.round) for model in told]


@pytest.mark.parametrize(
    ("first", "second", "newest"),
    [
        (a_model(number=1), a_model(number=2), a_model(number=2)),
        (a_model(number=2), a_model(number=1), a_model(number=2)),
        (a_model(number=2, closed_at=5), a_model(number=3, closed_at=4), a_model(number=3, closed_at=4)),
        (a_model("a", 9, 1000), a_model("b", 1, 1001), a_model("b", 1, 1001)),
        (a_model("a", 1, 1001), a_model("b", 9, 1000), a_model("a", 1, 1001)),
    ],
)
def test_of_one_run_the_later_round_is_newer_and_of_two_that_which_closed_later(
    first: NewModel, second: NewModel, newest: NewModel
) -> None:
    fleet = SmallFleet()
    assert make_latest(fleet.cloud, first)
    assert make_latest(fleet.cloud, second) == (second == newest)
    assert pointer(fleet) == newest
    assert make_latest(fleet.cloud, newest)  # once more, as after a crash: it still is the latest


def test_a_worker_that_is_overtaken_between_its_look_and_its_write_looks_again() -> None:
    fleet = SmallFleet()
    make_latest(fleet.cloud, a_model(number=1))
    fleet.counter.plan(partial(make_latest, fleet.cloud, a_model(number=3)), name="write_over")
    assert not make_latest(fleet.cloud, a_model(number=2))
    assert pointer(fleet).round == 3


def test_a_pointer_that_cannot_be_read_is_written_again_and_logged() -> None:
    fleet = SmallFleet()
    fleet.bucket.write(KEY, b"not json")
    assert make_latest(fleet.cloud, a_model())
    assert pointer(fleet) == a_model()
    assert fleet.log[-1].startswith(f"{KEY} is damaged and is written again: the message is not JSON")


def test_an_object_that_is_not_a_pointer_is_named_and_left_alone() -> None:
    fleet = SmallFleet()
    fleet.bucket.write(KEY, b"x" * 5000)
    with pytest.raises(MessageError, match=r"has 5000 bytes.*it should be the pointer"):
        make_latest(fleet.cloud, a_model())
    assert fleet.bucket.objects[KEY] == b"x" * 5000


def test_a_worker_that_stalls_between_closing_and_publishing_turns_nothing_back() -> None:
    fleet = SmallFleet(devices=1)
    for name in ("slow", "quick"):
        fleet.bucket.write(object_keys.model(name, 0), encode(INITIAL))
        fleet.act("start", name, settings={"task": "digits", "rounds": 1})

    def meanwhile() -> None:
        fleet.now += 5_000
        fleet.reply("thing-0", fleet.newest("quick"))

    fleet.counter.plan(meanwhile, name="write_over")
    fleet.reply("thing-0", fleet.newest("slow"))
    assert (pointer(fleet).run, published(fleet)) == ("quick", [("quick", 1)])
    assert {fleet.run(name).published for name in ("slow", "quick")} == {1}


def test_a_round_that_closes_after_its_run_was_cancelled_is_published() -> None:
    fleet = SmallFleet(devices=1)
    fleet.start()
    fleet.counter.plan(lambda: fleet.act("cancel"), name="read_layout")
    fleet.reply("thing-0")
    assert (fleet.run().state, fleet.newest().state) == (RunState.CANCELLED, State.CLOSED)
    assert (pointer(fleet).round, published(fleet)) == (1, [(RUN, 1)])
    assert fleet.alarms.standing() == []
    fleet.remind()
    assert published(fleet) == [(RUN, 1)]


def test_a_round_whose_worker_crashed_between_closing_and_publishing_it_is_published_in_a_cancelled_run() -> (
    None
):
    fleet = SmallFleet(devices=1)
    fleet.start()
    fleet.counter.plan(lambda: fleet.act("cancel"), name="read_layout")
    fleet.counter.plan_crash(name="write_over")
    with pytest.raises(Crash):
        fleet.reply("thing-0")
    assert fleet.newest().state is State.CLOSED
    fleet.remind()
    assert (pointer(fleet).round, published(fleet)) == (1, [(RUN, 1)])
