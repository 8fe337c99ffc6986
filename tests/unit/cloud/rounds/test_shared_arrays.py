"""Runs of partial models in the cloud: settings, announcements, frozen files, continued runs, repair."""

from typing import Any

import msgspec
import numpy as np
import pytest

from cloud_functions.recovery import repair
from cloud_functions.rounds.start import start_run
from fedgrass.federation import object_keys, topics
from fedgrass.federation.errors import SettingsError, UpdateRefused
from fedgrass.federation.messages import CarriedFile
from fedgrass.federation.rounds import Participation
from fedgrass.federation.runs import RunState
from fedgrass.federation.settings_parser import parse_settings
from fedgrass.federation.topics import Kind
from fedgrass.federation.weights import encode, sha256
from tests.fakes.small_fleet import FLEET, INITIAL, RUN, SmallFleet

FROZEN = encode({"base.weight": np.ones(8, np.float32)})
PRINT = "f" * 64
PATTERNS = ["w*", "b*", "nothing"]


def with_frozen(**settings: Any) -> SmallFleet:
    fleet = SmallFleet(devices=2, frozen_sha256=PRINT, **settings)
    fleet.bucket.write(object_keys.frozen(RUN), FROZEN)
    return fleet


def test_announcements_of_other_runs_do_not_mention_partial_models() -> None:
    fleet = SmallFleet(devices=1)
    fleet.start()
    topic = topics.of_device(FLEET, "thing-0", topics.Kind.ANNOUNCE)
    (payload,) = fleet.publisher.on(topic)
    for field in (b"shared", b"frozen", b"continues"):
        assert field not in payload


def test_an_announcement_has_what_a_device_needs_to_know_the_roles() -> None:
    fleet = with_frozen(shared=PATTERNS)
    fleet.start()
    (heard,) = fleet.announced("thing-0")
    assert heard.shared == PATTERNS
    assert heard.frozen_sha256 == PRINT
    assert heard.frozen == CarriedFile(key=object_keys.frozen(RUN), sha256=sha256(FROZEN), bytes=len(FROZEN))
    assert heard.model_bytes == len(fleet.bucket.objects[object_keys.model(RUN, 0)])


def test_frozen_arrays_that_come_with_the_component_are_announced_by_their_fingerprint() -> None:
    fleet = SmallFleet(devices=1, frozen_sha256=PRINT)
    fleet.start()
    (heard,) = fleet.announced("thing-0")
    assert (heard.frozen_sha256, heard.frozen) == (PRINT, msgspec.UNSET)


@pytest.mark.parametrize(
    ("shared", "reason"),
    [
        (["w*"], "the run's model has the array 'batches', which the run's `shared` leaves private"),
        (
            [*PATTERNS, "wieght"],
            "the run's `shared` pattern 'wieght' matches none of the 4 arrays: the nearest",
        ),
        (["W*"], "'W*' matches none"),
    ],
)
def test_an_initial_model_with_other_arrays_than_the_run_shares_is_refused_by_name(
    shared: list[str], reason: str
) -> None:
    fleet = SmallFleet(devices=1, shared=shared)
    with pytest.raises(SettingsError) as refused:
        fleet.start()
    assert reason in str(refused.value)
    assert fleet.rounds.run(RUN) is None


def test_an_array_that_is_shared_and_frozen_is_refused_by_name() -> None:
    fleet = with_frozen()
    fleet.bucket.write(object_keys.frozen(RUN), encode({"weight": INITIAL["weight"]}))
    with pytest.raises(
        SettingsError, match="the array 'weight' is in the initial model of run 'run-1' and in"
    ):
        fleet.start()


def test_a_frozen_file_that_holds_no_weights_is_refused() -> None:
    fleet = with_frozen()
    fleet.bucket.write(object_keys.frozen(RUN), b"no weights at all")
    with pytest.raises(UpdateRefused):
        fleet.start()


def test_a_run_that_continues_another_takes_over_its_frozen_arrays_and_names_it() -> None:
    fleet = with_frozen(rounds=1)
    fleet.start()
    for device in fleet.names:
        fleet.reply(device)
    assert fleet.run().state is RunState.SUCCEEDED
    for _ in range(2):  # the second changes nothing
        run = fleet.act("start", "more", settings={"task": "digits"}, continue_from={"run": RUN, "round": 1})
    assert run.settings.frozen_sha256 == PRINT
    heard = fleet.announced("thing-0")[-1]
    assert (heard.run, heard.continues) == ("more", RUN)
    assert heard.frozen
    assert heard.frozen.key == object_keys.frozen(RUN)


def test_a_run_with_other_frozen_arrays_does_not_take_over_the_file() -> None:
    fleet = with_frozen(rounds=1)
    fleet.start()
    for device in fleet.names:
        fleet.reply(device)
    settings = {"task": "digits", "frozen_sha256": "0" * 64}
    run = fleet.act("start", "more", settings=settings, continue_from={"run": RUN, "round": 1})
    assert run.frozen is None


def test_a_run_whose_rows_were_lost_comes_back_with_what_a_partial_model_needs() -> None:
    fleet = with_frozen(shared=PATTERNS)
    run = fleet.start()
    fleet.rounds.lose(runs=True, rounds=True, participants=True)
    repair.act(fleet.cloud, {"action": "repair", "run": RUN})
    back = fleet.run()
    assert (back.settings, back.frozen) == (run.settings, run.frozen)
    assert back.frozen


def test_a_device_that_declines_after_it_accepted_is_replaced() -> None:
    fleet = SmallFleet(devices=3, selection="random", count=2, frozen_sha256=PRINT)
    fleet.start()
    odd = next(iter(fleet.parts()))
    fleet.status(odd, "accepted")
    fleet.status(odd, "declined", reason="this device has another version of the frozen base")
    assert fleet.part(odd).state is Participation.DECLINED
    assert len(fleet.parts()) == 3
    assert any(
        "declined: this device has another version of the frozen base" in one for one in fleet.told_of(odd)
    )


def test_a_note_of_a_completion_is_published_on_the_runs_topic() -> None:
    fleet = SmallFleet(devices=1)
    fleet.start()
    fleet.reply("thing-0", note="dropped the private arrays of run run-1")
    assert "note: dropped the private arrays of run run-1" in fleet.told_of("thing-0")


def test_an_update_of_an_older_component_with_all_arrays_is_refused_by_name() -> None:
    fleet = SmallFleet(devices=2, rounds=1, initial={"weight": INITIAL["weight"]}, minimum_replies=1)
    fleet.start()
    opened = fleet.newest()
    whole = {"weight": INITIAL["weight"], "head.weight": np.zeros(2, np.float32)}
    fleet.say(
        "thing-0", Kind.COMPLETE, fleet.completion(opened, fleet.upload("thing-0", opened, whole), "thing-0")
    )
    good = {"weight": INITIAL["weight"] + np.float32(1)}  # type: ignore[operator] # a float32 array
    fleet.say(
        "thing-1", Kind.COMPLETE, fleet.completion(opened, fleet.upload("thing-1", opened, good), "thing-1")
    )
    assert fleet.part("thing-0", opened).state is Participation.REFUSED
    assert "'head.weight' is not in the model" in fleet.part("thing-0", opened).reason
    np.testing.assert_array_equal(fleet.model(1)["weight"], good["weight"])


def test_settings_that_announce_too_much_are_refused() -> None:
    text = "y" * 2_700
    assert parse_settings({"task": "t", "training": {"x": text}})
    with pytest.raises(
        SettingsError, match=r"at most 2,\d{3} are allowed next to its `shared` and frozen_sha256"
    ):
        parse_settings({"task": "t", "training": {"x": text}, "shared": ["a" * 100] * 4})
    with pytest.raises(SettingsError, match="at most 16"):
        parse_settings({"task": "t", "shared": ["a"] * 17})
    with pytest.raises(SettingsError, match="frozen_sha256"):
        parse_settings({"task": "t", "frozen_sha256": "abc"})


def test_starting_twice_with_frozen_arrays_starts_one_run() -> None:
    fleet = with_frozen()
    first = fleet.start()
    assert start_run(fleet.cloud, RUN, fleet.settings) == first
