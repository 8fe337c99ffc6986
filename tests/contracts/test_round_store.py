"""The contract of ``RoundStore``, over every implementation."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest
from botocore.exceptions import ClientError

from fedgrass.federation import round_metrics
from fedgrass.federation.errors import LostRace
from fedgrass.federation.messages import CarriedFile, Completion
from fedgrass.federation.ports import RoundStore
from fedgrass.federation.rounds import TRANSITIONS, Event, Move, Participant, Participation, Round, State
from fedgrass.federation.runs import Progress, Run, RunAction, RunState
from fedgrass.federation.settings import RunSettings

THREADS = 8
NOW = 1_700_000_000_000
DEVICES = [f"thing-{number}" for number in range(THREADS)]
SETTINGS = RunSettings(
    task="digits", threshold=0.7, training={"epochs": 2, "rate": 0.01, "on": True, "w": "x"}
)


def a_run(name: str = "run-1") -> Run:
    return Run(
        name=name,
        state=RunState.RUNNING,
        settings=SETTINGS,
        started_at=NOW,
        initial_sha256="a" * 64,
        initial_bytes=123,
    )


def a_round(**changes: Any) -> Round:
    made = Round(
        run="run-1",
        number=1,
        attempt=1,
        state=State.OPEN,
        asked=8,
        needed=6,
        minimum=1,
        opened_at=NOW,
        deadline_at=NOW + 600_000,
        choosing_at=NOW - 1000,
        base_sha256="b" * 64,
        base_bytes=456,
    )
    return msgspec.structs.replace(made, **changes)


def a_reply(**changes: Any) -> Completion:
    made = Completion(
        run="run-1",
        round=1,
        attempt=1,
        round_id="run-1/1/1",
        announced_at=NOW,
        bytes=2**53,
        checksum="0" * 32,
        examples=50,
        metrics={"loss": 1.7976931348623157e308, "tiny": 5e-324, "zero": 0.0},
        examples_evaluated=7,
        train_metrics={"train_loss": -1.5},
        download_seconds=0.25,
        train_seconds=12.5,
        upload_seconds=2.0,
        partial=True,
    )
    return msgspec.structs.replace(made, **changes)


@pytest.fixture
def opened(store: RoundStore) -> Round:
    """A run with an open round and its participants."""
    store.create_run(a_run())
    store.ask(a_round(), DEVICES)
    store.open_round(a_run(), a_round(), Progress())
    return a_round()


def the_run(store: RoundStore) -> Run:
    found = store.run("run-1")
    assert found is not None
    return found


def current(store: RoundStore, number: int = 1, attempt: int = 1) -> Round:
    found = store.round("run-1", number, attempt)
    assert found is not None
    return found


def as_read(device: str, state: Participation = Participation.ASKED, **changes: Any) -> Participant:
    """Return a participant as it was read before others moved it."""
    return Participant(device=device, state=state, announced_at=NOW, **changes)


def the_part(store: RoundStore, device: str) -> Participant:
    found = store.participant(a_round(), device)
    assert found is not None
    return found


def state_of(store: RoundStore, device: str) -> Participation:
    found = store.participant(a_round(), device)
    assert found is not None
    return found.state


def leased(store: RoundStore, of: Round) -> Round:
    return store.move(of, Event.ENOUGH_REPLIES, fence=of.fence + 1, lease_until=NOW + 1000)


def race(act: Callable[[int], object]) -> int:
    """Let threads ``act`` concurrently; return how many of them did not lose the race."""

    def won(number: int) -> bool:
        try:
            act(number)
        except LostRace:
            return False
        return True

    with ThreadPoolExecutor(THREADS) as pool:
        return sum(pool.map(won, range(THREADS), timeout=60))


def test_a_run_comes_back_as_it_was_stored(store: RoundStore) -> None:
    store.create_run(a_run())
    assert store.run("run-1") == a_run()
    assert store.run("other") is None


def test_a_run_with_frozen_arrays_comes_back_as_it_was_stored(store: RoundStore) -> None:
    frozen = CarriedFile(key="models/run-1/frozen.safetensors", sha256="f" * 64, bytes=2**40)
    settings = msgspec.structs.replace(SETTINGS, shared=["head.*"], frozen_sha256="e" * 64)
    run = msgspec.structs.replace(a_run(), settings=settings, frozen=frozen)
    store.create_run(run)
    assert store.run("run-1") == run


def test_a_name_that_is_taken_is_a_lost_race(store: RoundStore) -> None:
    store.create_run(a_run())
    with pytest.raises(LostRace):
        store.create_run(a_run())


def test_one_of_many_that_start_the_same_run_wins(store: RoundStore) -> None:
    assert race(lambda _number: store.create_run(a_run())) == 1


def test_all_runs_are_listed_with_their_states(store: RoundStore) -> None:
    assert store.runs() == {}
    for name in ("b", "a"):
        store.create_run(a_run(name))
    assert store.runs() == {"a": RunState.RUNNING, "b": RunState.RUNNING}
    ended = store.change_run(a_run("a"), state=RunState.FAILED, reason="because", ended_at=NOW + 5)
    assert (ended.state, ended.reason, ended.ended_at) == (RunState.FAILED, "because", NOW + 5)
    assert store.run("a") == ended
    assert store.runs() == {"a": RunState.FAILED, "b": RunState.RUNNING}


def test_only_runs_that_have_not_ended_are_among_the_living(store: RoundStore) -> None:
    assert store.living() == []
    for name in ("a", "b", "c"):
        store.create_run(a_run(name))
    store.change_run(a_run("b"), state=RunState.PAUSED)
    store.change_run(a_run("c"), wanted=1)
    assert store.living() == ["a", "b", "c"]
    for state in (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED):
        ended = store.change_run(a_run("a"), state=state)
        assert store.living() == ["b", "c"]
        store.change_run(ended, state=RunState.RUNNING)  # as a retry does
        assert store.living() == ["a", "b", "c"]


def test_a_run_whose_change_lost_a_race_stays_in_its_list(store: RoundStore) -> None:
    store.create_run(a_run())
    store.change_run(a_run(), state=RunState.PAUSED)
    with pytest.raises(LostRace):
        store.change_run(a_run(), state=RunState.CANCELLED)
    assert store.living() == ["run-1"]


def test_a_run_that_ended_and_was_lost_comes_back_among_the_ended(store: RoundStore) -> None:
    store.restore_run(msgspec.structs.replace(a_run("ended"), state=RunState.SUCCEEDED))
    store.restore_run(a_run("paused"))
    assert (store.living(), sorted(store.runs())) == (["paused"], ["ended", "paused"])


def test_a_run_that_waited_for_devices_waits_no_more_when_its_round_is_opened(store: RoundStore) -> None:
    store.create_run(a_run())
    waiting = store.change_run(a_run(), waiting_since=NOW, look_at=NOW + 60_000)
    assert the_run(store) == waiting
    store.open_round(waiting, a_round(), Progress())
    assert (the_run(store).waiting_since, the_run(store).look_at) == (0, NOW + 60_000)


def test_a_change_of_a_run_that_leaves_its_state_leaves_the_list_alone(store: RoundStore) -> None:
    store.create_run(a_run())
    changed = store.change_run(a_run(), wanted=3, granted_attempts=2, granted_round=1, published=1)
    assert the_run(store) == changed
    assert (changed.wanted, changed.granted_attempts, changed.state) == (3, 2, RunState.RUNNING)
    assert store.runs() == {"run-1": RunState.RUNNING}


def test_one_of_many_that_change_a_runs_state_wins(store: RoundStore) -> None:
    store.create_run(a_run())
    assert race(lambda n: store.change_run(a_run(), state=RunState.PAUSED, reason=f"by {n}")) == 1
    assert store.runs() == {"run-1": RunState.PAUSED}


def test_a_run_that_moved_on_cannot_be_changed_from_where_it_stood(store: RoundStore, opened: Round) -> None:
    assert opened
    with pytest.raises(LostRace):
        store.change_run(a_run(), state=RunState.SUCCEEDED)
    assert the_run(store).state is RunState.RUNNING
    assert store.runs() == {"run-1": RunState.RUNNING}


def test_a_run_that_is_not_there_cannot_be_changed(store: RoundStore) -> None:
    with pytest.raises(LostRace):
        store.change_run(a_run(), wanted=1)
    assert store.run("run-1") is None
    assert store.runs() == {}


def test_no_round_is_opened_in_a_run_that_was_paused_at_that_moment(store: RoundStore) -> None:
    store.create_run(a_run())
    store.change_run(a_run(), state=RunState.PAUSED)
    with pytest.raises(LostRace):
        store.open_round(a_run(), a_round(), Progress())
    assert store.round("run-1", 1, 1) is None
    assert the_run(store).round == 0


def test_the_progress_of_a_run_is_kept_with_the_round_that_is_opened(store: RoundStore) -> None:
    store.create_run(a_run())
    progress = Progress(best=0.1 + 0.2, best_model=7, rounds_since_best=2, usual_seconds=12.345678901)
    store.open_round(a_run(), a_round(), progress)
    assert the_run(store).progress == progress
    assert the_run(store).settings == SETTINGS


def test_an_opened_round_comes_back_as_it_was_and_is_the_runs_newest(
    store: RoundStore, opened: Round
) -> None:
    assert (the_run(store).round, the_run(store).attempt) == (1, 1)
    assert current(store) == opened
    assert store.round("run-1", 1, 2) is None
    assert store.round("run-2", 1, 1) is None


def test_a_round_is_opened_once(store: RoundStore) -> None:
    store.create_run(a_run())
    assert race(lambda n: store.open_round(a_run(), a_round(opened_at=NOW + n), Progress())) == 1


def test_a_round_after_one_that_another_opened_is_neither_stored_nor_newest(
    store: RoundStore, opened: Round
) -> None:
    assert opened
    with pytest.raises(LostRace):
        store.open_round(a_run(), a_round(attempt=2), Progress(best=0.5))
    assert store.round("run-1", 1, 2) is None
    assert (the_run(store).attempt, the_run(store).progress) == (1, Progress())


def test_participants_are_listed_by_name(store: RoundStore, opened: Round) -> None:
    parts = list(store.participants(opened))
    assert [part.device for part in parts] == DEVICES
    assert {part.state for part in parts} == {Participation.ASKED}
    assert {part.announced_at for part in parts} == {NOW}


def test_more_participants_than_one_transaction_takes_are_all_stored(store: RoundStore) -> None:
    names = sorted(f"thing:{number}" for number in range(250))
    store.ask(a_round(), names[:30])
    store.ask(a_round(), names)
    assert [part.device for part in store.participants(a_round())] == names


def test_participants_of_rounds_and_attempts_with_like_names_are_kept_apart(store: RoundStore) -> None:
    store.ask(a_round(), ["a"])
    store.ask(a_round(attempt=11), ["b"])
    store.ask(a_round(number=11), ["c"])
    assert [part.device for part in store.participants(a_round())] == ["a"]


def test_asking_again_leaves_those_that_are_there_as_they_are(store: RoundStore, opened: Round) -> None:
    store.count_reply(opened, as_read("thing-0"), a_reply(), NOW + 9)
    store.ask(a_round(opened_at=NOW + 77), [*DEVICES, "thing-9"])
    assert state_of(store, "thing-0") is Participation.REPLIED
    announced = [part.announced_at for part in store.participants(opened)]
    assert announced == [NOW] * THREADS + [NOW + 77]


def test_marking_a_round_announced_changes_nothing_but_how_long_its_opening_took(
    store: RoundStore, opened: Round
) -> None:
    store.count_reply(opened, as_read("thing-0"), a_reply(), NOW)
    store.mark_announced(opened, NOW + 1500)
    assert current(store) == msgspec.structs.replace(
        opened, announced_batches=1, opening_seconds=2.5, replied=1, accepted=1, bytes_up=2**53
    )


def test_only_the_first_cohorts_announcement_is_the_opening(store: RoundStore, opened: Round) -> None:
    store.mark_announced(opened, NOW)
    with pytest.raises(LostRace):
        store.mark_announced(opened, NOW + 7)
    store.move_participant(opened, as_read("thing-0"), Participation.DECLINED, "busy")
    store.replace(current(store), [], ["thing-8"], replaced=1, at=NOW + 5000)
    store.mark_announced(current(store), NOW + 6000)
    now = current(store)
    assert (now.batches, now.announced_batches, now.opening_seconds) == (2, 2, 1.0)


def test_a_round_is_not_announced_if_more_devices_were_asked_meanwhile(
    store: RoundStore, opened: Round
) -> None:
    store.move_participant(opened, as_read("thing-0"), Participation.DECLINED, "busy")
    store.replace(current(store), [], ["thing-8"], replaced=1, at=NOW + 5)
    with pytest.raises(LostRace):
        store.mark_announced(opened, NOW)
    assert not current(store).announced
    store.mark_announced(current(store), NOW)
    assert current(store).announced


def test_one_of_several_workers_gets_the_lease_to_announce(store: RoundStore, opened: Round) -> None:
    assert race(lambda n: store.lease_announcement(opened, NOW + n + 1)) == 1
    assert current(store).announcing_until in range(NOW + 1, NOW + THREADS + 1)
    with pytest.raises(LostRace):
        store.lease_announcement(opened, NOW + 99)


def test_a_lease_to_announce_is_extended_and_released_by_its_holder(store: RoundStore, opened: Round) -> None:
    first = store.lease_announcement(opened, NOW + 30)
    second = store.lease_announcement(first, NOW + 60)
    assert second == current(store) == msgspec.structs.replace(opened, announcing_until=NOW + 60)
    with pytest.raises(LostRace):
        store.lease_announcement(first, 0)
    assert store.lease_announcement(second, 0) == opened


def test_a_round_that_was_announced_needs_no_lease(store: RoundStore, opened: Round) -> None:
    leased = store.lease_announcement(opened, NOW + 30)
    store.mark_announced(leased, NOW)
    assert current(store).announcing_until == 0
    with pytest.raises(LostRace):  # of a worker that read the round before the first lease
        store.lease_announcement(opened, NOW + 30)


def test_a_round_that_has_ended_is_not_leased_to_be_announced(store: RoundStore, opened: Round) -> None:
    store.move(opened, Event.GIVEN_UP)
    with pytest.raises(LostRace):
        store.lease_announcement(opened, NOW + 30)


def test_a_device_is_asked_in_place_of_one_that_declined(store: RoundStore, opened: Round) -> None:
    store.mark_announced(opened, NOW)
    store.move_participant(opened, as_read("thing-0"), Participation.DECLINED, "busy")
    store.replace(current(store), [], ["thing-8"], replaced=1, at=NOW + 5)
    now = current(store)
    assert (now.asked, now.gone, now.replaced, now.announced) == (THREADS + 1, 1, 1, False)
    assert (state_of(store, "thing-0"), state_of(store, "thing-8")) == (
        Participation.DECLINED,
        Participation.ASKED,
    )
    part = store.participant(opened, "thing-8")
    assert part is not None
    assert (part.announced_at, part.batch) == (NOW + 5, 2)


def test_silent_devices_are_gone_in_the_same_write_that_asks_others(store: RoundStore, opened: Round) -> None:
    store.replace(opened, [as_read("thing-0"), as_read("thing-1")], ["thing-8"], replaced=0, at=NOW)
    now = current(store)
    assert (now.asked, now.silent, now.gone, now.replaced) == (THREADS + 1, 2, 2, 2)
    assert state_of(store, "thing-0") is state_of(store, "thing-1") is Participation.SILENT
    with pytest.raises(LostRace):  # it was read before it was given up: counting it must fail
        store.count_reply(now, as_read("thing-0"), a_reply(), NOW)
    with pytest.raises(LostRace):
        store.move_participant(now, as_read("thing-0"), Participation.FAILED, "")
    assert current(store) == now


def test_a_silent_device_that_replies_after_all_is_counted_once_and_silent_no_more(
    store: RoundStore, opened: Round
) -> None:
    store.replace(opened, [as_read("thing-0")], ["thing-8"], replaced=0, at=NOW)
    silent = the_part(store, "thing-0")
    assert race(lambda _n: store.count_reply(opened, silent, a_reply(), NOW)) == 1
    now = current(store)
    assert (now.replied, now.accepted, now.silent, now.replaced) == (1, 1, 0, 1)
    assert now.outstanding == THREADS


@pytest.mark.parametrize(
    ("target", "counts"),
    [
        (Participation.ACCEPTED, (1, 0, 0, 0, 0)),
        (Participation.DECLINED, (0, 1, 0, 0, 0)),
        (Participation.FAILED, (0, 0, 1, 0, 0)),
    ],
)
def test_a_silent_device_that_replies_after_all_is_counted_accordingly(
    store: RoundStore, opened: Round, target: Participation, counts: tuple[int, ...]
) -> None:
    store.replace(opened, [as_read("thing-0")], ["thing-8"], replaced=0, at=NOW)
    store.move_participant(opened, the_part(store, "thing-0"), target, "")
    now = current(store)
    assert (now.accepted, now.declined, now.failed, now.silent, now.late) == counts


def test_losses_that_were_not_dealt_with_are_left_for_the_next_write(
    store: RoundStore, opened: Round
) -> None:
    for device in DEVICES[:3]:
        store.move_participant(opened, as_read(device), Participation.FAILED, "")
    store.replace(current(store), [], ["thing-8"], replaced=1, at=NOW)
    assert (current(store).gone, current(store).replaced, current(store).unreplaced) == (3, 1, 2)


def test_a_loss_without_a_replacement_is_noted_and_needs_no_announcement(
    store: RoundStore, opened: Round
) -> None:
    store.mark_announced(opened, NOW)
    store.move_participant(opened, as_read("thing-0"), Participation.FAILED, "")
    store.replace(current(store), [], [], replaced=1, at=NOW)
    now = current(store)
    assert (now.asked, now.gone, now.replaced, now.announced) == (THREADS, 1, 1, True)


def test_as_many_silent_devices_as_may_be_are_replaced_in_one_write(store: RoundStore) -> None:
    old, new = ([f"{word}-{number:02}" for number in range(49)] for word in ("old", "new"))
    store.create_run(a_run())
    store.ask(a_round(asked=49), old)
    store.open_round(a_run(), a_round(asked=49), Progress())
    store.replace(a_round(asked=49), [as_read(name) for name in old], new, replaced=0, at=NOW)
    assert (current(store).asked, current(store).gone) == (98, 49)
    assert (current(store).silent, current(store).batches) == (49, 2)
    states = [part.state for part in store.participants(a_round())]
    assert states == [Participation.ASKED] * 49 + [Participation.SILENT] * 49


def test_one_of_many_that_replace_the_same_device_wins(store: RoundStore, opened: Round) -> None:
    store.move_participant(opened, as_read("thing-0"), Participation.DECLINED, "busy")
    before = current(store)
    assert race(lambda number: store.replace(before, [], [f"other-{number}"], replaced=1, at=NOW)) == 1
    now = current(store)
    assert (now.asked, now.replaced) == (THREADS + 1, 1)
    assert len(list(store.participants(opened))) == now.asked


@pytest.mark.parametrize("spoke", [Participation.ACCEPTED, Participation.REPLIED])
def test_a_device_that_spoke_at_the_last_moment_is_not_replaced(
    store: RoundStore, opened: Round, spoke: Participation
) -> None:
    if spoke is Participation.REPLIED:
        store.count_reply(opened, as_read("thing-1"), a_reply(), NOW)
    else:
        store.move_participant(opened, as_read("thing-1"), spoke, "")
    with pytest.raises(LostRace):
        store.replace(
            opened, [as_read("thing-0"), as_read("thing-1")], ["thing-8", "thing-9"], replaced=0, at=NOW
        )
    now = current(store)
    assert (now.asked, now.gone, now.replaced) == (THREADS, 0, 0)
    assert (state_of(store, "thing-0"), state_of(store, "thing-1")) == (Participation.ASKED, spoke)
    assert store.participant(opened, "thing-8") is None


def test_no_device_is_replaced_in_a_round_that_is_averaged(store: RoundStore, opened: Round) -> None:
    leased(store, opened)
    with pytest.raises(LostRace):
        store.replace(opened, [as_read("thing-0")], ["thing-8"], replaced=0, at=NOW)
    assert state_of(store, "thing-0") is Participation.ASKED
    assert store.participant(opened, "thing-8") is None


def test_a_device_that_was_asked_already_cannot_be_asked_in_place_of_another(
    store: RoundStore, opened: Round
) -> None:
    store.move_participant(opened, as_read("thing-0"), Participation.DECLINED, "busy")
    with pytest.raises(LostRace):
        store.replace(current(store), [], ["thing-1"], replaced=1, at=NOW)
    assert (current(store).asked, current(store).replaced) == (THREADS, 0)


def test_a_reply_is_kept_with_its_participant(store: RoundStore, opened: Round) -> None:
    store.count_reply(opened, as_read("thing-0"), a_reply(), NOW + 2500)
    part = store.participant(opened, "thing-0")
    assert part is not None
    assert (part.state, part.bytes, part.checksum, part.examples) == (
        Participation.REPLIED,
        2**53,
        "0" * 32,
        50,
    )
    assert part.metrics == a_reply().metrics
    assert (part.examples_evaluated, part.train_metrics) == (7, {"train_loss": -1.5})
    assert (part.download_seconds, part.train_seconds, part.upload_seconds) == (0.25, 12.5, 2.0)
    assert part.partial is True
    assert part.turnaround_seconds == 2.5
    assert current(store).replied == 1


def test_a_reply_states_which_announcement_it_answers(store: RoundStore, opened: Round) -> None:
    store.count_reply(opened, as_read("thing-0"), a_reply(announced_at=NOW + 1000), NOW + 2500)
    part = store.participant(opened, "thing-0")
    assert part is not None
    assert part.turnaround_seconds == 1.5


def test_a_reply_with_no_metrics_is_kept(store: RoundStore, opened: Round) -> None:
    store.count_reply(
        opened, as_read("thing-0"), a_reply(metrics={}, train_metrics={}, examples_evaluated=None), NOW
    )
    part = store.participant(opened, "thing-0")
    assert part is not None
    assert (part.metrics, part.train_metrics, part.examples_evaluated) == ({}, {}, None)


def test_copies_of_a_reply_that_come_at_once_are_counted_once(store: RoundStore, opened: Round) -> None:
    assert race(lambda _number: store.count_reply(opened, as_read("thing-3"), a_reply(), NOW)) == 1
    assert current(store).replied == 1


def test_replies_of_all_devices_that_come_at_once_are_all_counted(store: RoundStore, opened: Round) -> None:
    assert race(lambda number: store.count_reply(opened, as_read(DEVICES[number]), a_reply(), NOW)) == THREADS
    assert current(store).replied == THREADS


def grouped(store: RoundStore, **changes: Any) -> Round:
    """Return an open round whose replies are summed in groups of three."""
    store.create_run(a_run())
    opened = a_round(group_size=3, **changes)
    store.ask(opened, DEVICES)
    store.open_round(a_run(), opened, Progress())
    return opened


def test_replies_are_counted_in_groups_and_a_group_has_its_own(store: RoundStore) -> None:
    opened = grouped(store)
    for device in ("thing-4", "thing-1", "thing-7", "thing-0"):
        store.count_reply(current(store), as_read(device), a_reply(), NOW)
    assert [part.device for part in store.members(opened, 1)] == ["thing-1", "thing-4", "thing-7"]
    assert [part.device for part in store.members(opened, 2)] == ["thing-0"]
    assert list(store.members(opened, 3)) == []
    assert next(iter(store.members(opened, 1))) == store.participant(opened, "thing-1")
    assert [part.group for part in store.participants(opened)] == [2, 1, 0, 0, 1, 0, 0, 1]


def test_members_of_group_1_are_not_those_of_group_10_nor_of_another_attempt(store: RoundStore) -> None:
    opened = grouped(store, replied=27)
    store.count_reply(opened, as_read("thing-0"), a_reply(), NOW)
    assert [part.device for part in store.members(opened, 10)] == ["thing-0"]
    assert list(store.members(opened, 1)) == []
    assert list(store.members(a_round(attempt=2), 10)) == []


def test_copies_of_a_reply_that_come_at_once_are_in_one_group_once(store: RoundStore) -> None:
    opened = grouped(store)
    assert race(lambda _number: store.count_reply(opened, as_read("thing-3"), a_reply(), NOW)) == 1
    assert [part.device for part in store.members(opened, 1)] == ["thing-3"]


def test_a_reply_to_a_round_without_groups_is_in_none(store: RoundStore, opened: Round) -> None:
    store.count_reply(opened, as_read("thing-0"), a_reply(), NOW)
    assert the_part(store, "thing-0").group == 0
    assert list(store.members(opened, 0)) == []


def test_a_group_is_begun_once(store: RoundStore) -> None:
    opened = grouped(store)
    assert race(lambda _number: store.begin_group(opened)) == 1
    assert current(store).groups == 1


def test_no_group_begins_in_a_round_that_is_being_averaged(store: RoundStore) -> None:
    opened = grouped(store)
    leased(store, opened)
    with pytest.raises(LostRace):
        store.begin_group(opened)
    assert current(store).groups == 0


def test_a_reply_of_a_device_that_was_not_asked_is_a_lost_race(store: RoundStore, opened: Round) -> None:
    with pytest.raises(LostRace):
        store.count_reply(opened, as_read("stranger"), a_reply(), NOW)
    assert current(store).replied == 0
    assert store.participant(opened, "stranger") is None


def test_no_reply_is_counted_once_the_round_is_averaged(store: RoundStore, opened: Round) -> None:
    leased(store, opened)
    with pytest.raises(LostRace):
        store.count_reply(opened, as_read("thing-0"), a_reply(), NOW)
    assert state_of(store, "thing-0") is Participation.ASKED
    assert current(store).replied == 0


def test_one_of_many_averagers_gets_the_lease(store: RoundStore, opened: Round) -> None:
    assert race(lambda _number: leased(store, opened)) == 1
    now = current(store)
    assert (now.state, now.fence, now.lease_until) == (State.AGGREGATING, 1, NOW + 1000)


def test_a_lease_that_expired_goes_to_one_of_many(store: RoundStore, opened: Round) -> None:
    first = leased(store, opened)
    assert race(lambda _n: store.move(first, Event.LEASE_EXPIRED, fence=2, lease_until=NOW + 2000)) == 1
    with pytest.raises(LostRace):
        store.move(first, Event.MODEL_WRITTEN)
    assert current(store).state is State.AGGREGATING


def test_a_move_returns_the_round_with_the_counters_of_that_moment(store: RoundStore, opened: Round) -> None:
    for device in DEVICES[:3]:
        store.count_reply(opened, as_read(device), a_reply(), NOW)
    store.move_participant(opened, as_read("thing-4"), Participation.FAILED, "why")
    moved = leased(store, opened)
    assert (moved.replied, moved.gone, moved.state) == (3, 1, State.AGGREGATING)
    assert moved == current(store)


def test_a_round_moves_only_by_the_table_of_transitions(store: RoundStore, opened: Round) -> None:
    for event in Event:
        if (State.OPEN, event) not in TRANSITIONS:
            with pytest.raises(KeyError):
                store.move(opened, event)
    assert current(store) == opened


def test_a_closed_round_keeps_what_was_written_with_it(store: RoundStore, opened: Round) -> None:
    closed = store.move(
        leased(store, opened), Event.MODEL_WRITTEN, closed_at=NOW + 3, model_sha256="c" * 64, model_bytes=99
    )
    assert closed == current(store)
    assert (closed.state, closed.closed_at, closed.model_sha256, closed.model_bytes) == (
        State.CLOSED,
        NOW + 3,
        "c" * 64,
        99,
    )


@pytest.mark.parametrize("target", [Participation.DECLINED, Participation.FAILED])
def test_a_device_that_will_not_reply_is_counted_as_gone_once(
    store: RoundStore, opened: Round, target: Participation
) -> None:
    assert race(lambda _n: store.move_participant(opened, as_read("thing-0"), target, "on battery")) == 1
    part = store.participant(opened, "thing-0")
    assert part is not None
    now = current(store)
    assert (part.state, part.reason, now.declined + now.failed) == (target, "on battery", 1)
    assert (now.declined, now.silent) == (int(target is Participation.DECLINED), 0)


def test_an_acceptance_is_counted_once_and_a_reply_may_follow_it(store: RoundStore, opened: Round) -> None:
    accept = as_read("thing-0")
    assert race(lambda _n: store.move_participant(opened, accept, Participation.ACCEPTED, "")) == 1
    assert current(store) == msgspec.structs.replace(opened, accepted=1)
    with pytest.raises(LostRace):  # it was read before it accepted, and would be counted as accepting twice
        store.count_reply(opened, as_read("thing-0"), a_reply(), NOW)
    store.count_reply(opened, the_part(store, "thing-0"), a_reply(), NOW)
    assert (current(store).accepted, current(store).replied) == (1, 1)
    with pytest.raises(LostRace):
        store.move_participant(opened, the_part(store, "thing-0"), Participation.ACCEPTED, "")
    assert state_of(store, "thing-0") is Participation.REPLIED


def test_no_participant_moves_in_a_round_that_is_averaged(store: RoundStore, opened: Round) -> None:
    leased(store, opened)
    for target in (Participation.ACCEPTED, Participation.FAILED):
        with pytest.raises(LostRace):
            store.move_participant(opened, as_read("thing-0"), target, "")
    assert current(store).gone == 0


def test_an_update_is_refused_once_and_only_by_who_holds_the_lease(store: RoundStore, opened: Round) -> None:
    store.count_reply(opened, as_read("thing-0"), a_reply(), NOW)
    first = leased(store, opened)
    second = store.move(first, Event.LEASE_EXPIRED, fence=2)
    with pytest.raises(LostRace):
        store.refuse_update(first, "thing-0", "too late")
    assert race(lambda _n: store.refuse_update(second, "thing-0", "not finite")) == 1
    part = store.participant(opened, "thing-0")
    assert part is not None
    now = current(store)
    assert (part.state, part.reason, now.refused) == (Participation.REFUSED, "not finite", 1)
    assert (now.bytes_up, now.replied, now.accepted) == (0, 1, 1)


def test_an_update_that_never_came_cannot_be_refused(store: RoundStore, opened: Round) -> None:
    with pytest.raises(LostRace):
        store.refuse_update(leased(store, opened), "thing-0", "")
    assert current(store).refused == 0


def test_a_late_reply_is_counted_once(store: RoundStore, opened: Round) -> None:
    closed = store.move(leased(store, opened), Event.MODEL_WRITTEN)
    assert race(lambda _n: store.count_late(closed, as_read("thing-0"), NOW + 1)) == 1
    assert current(store).late == 1
    assert state_of(store, "thing-0") is Participation.LATE


def test_a_reply_is_not_late_in_a_round_that_was_opened_again(store: RoundStore, opened: Round) -> None:
    averaging = leased(store, opened)
    reopened = store.move(averaging, Event.TOO_FEW_GOOD_UPDATES)
    with pytest.raises(LostRace):
        store.count_late(averaging, as_read("thing-0"), NOW)
    assert (reopened.state, current(store).late) == (State.OPEN, 0)


def test_moves_and_replies_at_once_lose_nothing(store: RoundStore, opened: Round) -> None:
    def act(number: int) -> None:
        if number == 0:
            store.mark_announced(opened, NOW)
        elif number == 1:
            leased(store, opened)
        else:
            store.count_reply(opened, as_read(DEVICES[number]), a_reply(), NOW)

    counted = race(act) - 2
    now = current(store)
    states = [part.state for part in store.participants(opened)]
    assert (now.announced, now.state) == (True, State.AGGREGATING)
    assert now.replied == counted == states.count(Participation.REPLIED)


# ---------------------------------------------------------------- restore
def test_lost_rows_are_stored_as_they_were(store: RoundStore) -> None:
    run = msgspec.structs.replace(a_run(), round=1, attempt=1, progress=Progress(best=0.5, best_model=1))
    closed = a_round(state=State.CLOSED, replied=1, closed_at=NOW + 5, metrics={"loss": 0.1})
    parts = [
        Participant(device=device, state=Participation.REPLIED, announced_at=NOW, metrics={"loss": 0.1})
        for device in DEVICES
    ]
    store.restore_participants(closed, parts)
    store.restore_round(closed)
    store.restore_run(run)
    assert (store.run("run-1"), store.runs()) == (run, {"run-1": RunState.RUNNING})
    assert store.round("run-1", 1, 1) == closed
    assert list(store.participants(closed)) == parts


def test_rows_that_are_there_are_not_restored_over(store: RoundStore, opened: Round) -> None:
    store.count_reply(opened, as_read("thing-1"), a_reply(), NOW + 9)
    before = (store.run("run-1"), store.round("run-1", 1, 1), list(store.participants(opened)))
    store.restore_run(msgspec.structs.replace(a_run(), state=RunState.PAUSED))
    store.restore_round(a_round(state=State.ABANDONED))
    failed = [
        Participant(device=device, state=Participation.FAILED, announced_at=1)
        for device in [*DEVICES, "thing-new"]
    ]
    store.restore_participants(opened, failed)
    *old, new = store.participants(opened)
    assert (store.run("run-1"), store.round("run-1", 1, 1), old) == before
    assert (new, store.runs()) == (failed[-1], {"run-1": RunState.RUNNING})


# ---------------------------------------------------------------- several open rounds
def test_rounds_are_read_in_one_range_in_order_with_all_attempts(store: RoundStore) -> None:
    run = a_run()
    store.create_run(run)
    store.create_run(a_run("run-10"))
    for number, attempt in ((1, 1), (1, 2), (2, 1), (10, 1), (11, 1)):
        store.open_round(run, a_round(number=number, attempt=attempt), Progress())
        run = the_run(store)
    store.open_round(a_run("run-10"), a_round(run="run-10", number=2), Progress())
    store.ask(a_round(number=2), DEVICES)

    def found(first: int, last: int) -> list[tuple[str, int, int]]:
        return [(each.run, each.number, each.attempt) for each in store.rounds_from("run-1", first, last)]

    assert found(1, 2) == [("run-1", 1, 1), ("run-1", 1, 2), ("run-1", 2, 1)]
    assert found(2, 10) == [("run-1", 2, 1), ("run-1", 10, 1)]
    assert found(12, 20) == []
    assert found(1, 0) == []  # of a run without a round
    assert list(store.participants_from("run-1", 1, 0)) == []
    assert next(iter(store.rounds_from("run-1", 11, 11))) == a_round(number=11)


def test_the_mark_of_published_rounds_is_moved_from_where_it_was_read(store: RoundStore) -> None:
    store.create_run(a_run())
    read = the_run(store)
    assert store.change_run(read, published=3).published == 3
    with pytest.raises(LostRace):
        store.change_run(read, published=2)
    store.change_run(read, wanted=7)  # another field does not depend on it
    assert (the_run(store).published, the_run(store).wanted) == (3, 7)
    store.change_run(the_run(store), published=4)
    assert the_run(store).published == 4


# ---------------------------------------------------------------- actions that are done once
def test_of_two_actions_at_one_moment_the_second_looks_again(store: RoundStore) -> None:
    store.create_run(a_run())
    first = store.change_run(a_run(), wanted=1, **a_run().with_action("a"))
    with pytest.raises(LostRace):
        store.change_run(a_run(), wanted=1, **a_run().with_action("b"))
    store.change_run(first, wanted=2, **first.with_action("b"))
    run = the_run(store)
    assert (run.actions, run.has_done("a"), run.has_done("b"), run.wanted) == (2, True, True, 2)


def test_one_of_many_copies_of_an_action_is_done(store: RoundStore) -> None:
    store.create_run(a_run())
    assert race(lambda _number: store.change_run(a_run(), wanted=1, **a_run().with_action("a"))) == 1


def test_of_two_operators_who_act_at_once_one_is_kept_and_the_other_reads_again(store: RoundStore) -> None:
    started = RunAction(at=1, action="start", by="anna")
    store.create_run(msgspec.structs.replace(a_run(), history=(started,)))
    run = store.run("run-1")
    assert run is not None
    assert run.history == (started,)
    actions = [RunAction(at=number + 2, action="next", by=f"operator-{number}") for number in range(THREADS)]
    # Also without ids, as from a caller of an older version.
    assert race(lambda number: store.change_run(run, wanted=1, **run.with_action("", actions[number]))) == 1
    found = store.run("run-1")
    assert found is not None
    assert (len(found.history), found.actions, found.history[0]) == (2, 1, started)
    assert found.history[1] in actions


# ---------------------------------------------------------------- what a run left
def test_a_run_that_ended_is_unsettled_until_it_was_checked(store: RoundStore) -> None:
    store.create_run(a_run("a"))
    store.create_run(a_run("b"))
    assert store.unsettled() == []
    ended = store.change_run(a_run("a"), state=RunState.FAILED)
    assert store.unsettled() == ["a"]
    store.settle("a")
    assert store.unsettled() == []
    going = store.change_run(ended, state=RunState.RUNNING)
    assert store.unsettled() == []
    store.change_run(going, state=RunState.SUCCEEDED)
    assert store.unsettled() == ["a"]
    assert store.runs() == {"a": RunState.SUCCEEDED, "b": RunState.RUNNING}


def test_an_averager_notes_why_it_failed_while_it_holds_the_lease(store: RoundStore, opened: Round) -> None:
    first = leased(store, opened)
    store.note_failure(first, "ClientError: no")
    assert current(store).failure == "ClientError: no"
    second = store.move(first, Event.LEASE_EXPIRED, fence=first.fence + 1)
    with pytest.raises(LostRace):
        store.note_failure(first, "late")
    assert (second.failure, current(store).failure) == ("ClientError: no", "ClientError: no")


# ---------------------------------------------------------------- rows that are replaced
def test_a_run_is_replaced_where_it_stands_as_it_was_read(store: RoundStore, opened: Round) -> None:
    assert opened
    later = msgspec.structs.replace(a_run(), round=3, attempt=1, state=RunState.PAUSED, reason="behind")
    with pytest.raises(LostRace):
        store.restore_run(later, over=a_run())
    store.restore_run(later, over=the_run(store))
    assert the_run(store) == later
    assert (store.runs(), store.living()) == ({"run-1": RunState.PAUSED}, ["run-1"])
    ended = msgspec.structs.replace(later, state=RunState.SUCCEEDED)
    store.restore_run(ended, over=later)
    assert (store.runs(), store.living(), store.unsettled()) == (
        {"run-1": RunState.SUCCEEDED},
        [],
        ["run-1"],
    )


def test_a_round_is_replaced_as_it_was_read(store: RoundStore, opened: Round) -> None:
    closed = a_round(state=State.CLOSED, fence=4, replied=2, metrics={"loss": 0.5}, model_sha256="c" * 64)
    first = leased(store, opened)
    with pytest.raises(LostRace):
        store.restore_round(closed, over=opened)
    store.restore_round(closed, over=first)
    assert current(store) == closed


def test_participants_are_replaced_where_that_is_asked(store: RoundStore, opened: Round) -> None:
    parts = [as_read(device, Participation.REPLIED, bytes=7) for device in DEVICES]
    store.restore_participants(opened, parts)
    assert state_of(store, "thing-0") is Participation.ASKED
    store.restore_participants(opened, parts, over=True)
    assert list(store.participants(opened)) == parts


# ---------------------------------------------------------------- the limit of a row
def test_a_row_of_more_than_400_kb_is_refused_and_the_old_one_stays(store: RoundStore) -> None:
    store.create_run(a_run())
    changed = store.change_run(a_run(), reason="x" * 390 * 1024)
    with pytest.raises(ClientError, match="exceeded the maximum allowed size"):
        store.change_run(changed, reason="x" * 410 * 1024)
    assert the_run(store) == changed


# ------------------------------------------------------------ buffers
def a_buffer(**changes: Any) -> Round:
    """Return a buffer that has just opened: no device was asked yet."""
    return a_round(**{"asked": 0, "in_flight": 4, "base": 3, "group_size": 0, **changes})


@pytest.fixture
def buffers(store: RoundStore) -> tuple[Round, Round]:
    """Return two buffers of a run: the first is closed, and thing-0 and thing-1 still train for it."""
    store.create_run(a_run())
    first = a_buffer()
    store.open_round(a_run(), first, Progress())
    store.fill(first, ["thing-0", "thing-1"], unfilled=2, at=NOW + 5)
    leased = store.move(first, Event.DEADLINE_WITH_MINIMUM, fence=1, lease_until=NOW)
    closed = store.move(leased, Event.MODEL_WRITTEN, closed_at=NOW)
    second = a_buffer(number=2, base=4, in_flight_before=2)
    run = store.run("run-1")
    assert run
    store.open_round(run, second, Progress())
    return closed, second


def test_a_buffer_is_filled_in_batches_each_once(store: RoundStore, buffers: tuple[Round, Round]) -> None:
    _, second = buffers
    store.fill(second, ["thing-2", "thing-3"], unfilled=1, at=NOW + 9)
    filled = store.round("run-1", 2, 1)
    assert filled
    assert (filled.asked, filled.batches, filled.unfilled) == (2, 2, 1)
    part = store.participant(second, "thing-2")
    assert part
    assert (part.state, part.announced_at, part.batch, part.base) == (Participation.ASKED, NOW + 9, 2, 4)
    with pytest.raises(LostRace):
        store.fill(second, ["thing-4"], unfilled=0, at=NOW)
    store.fill(filled, [], unfilled=3, at=NOW)
    again = store.round("run-1", 2, 1)
    assert again
    assert (again.asked, again.batches, again.unfilled) == (2, 2, 3)


def test_participants_of_several_rounds_are_read_in_order(
    store: RoundStore, buffers: tuple[Round, Round]
) -> None:
    store.fill(buffers[1], ["thing-1"], unfilled=0, at=NOW)
    found = [
        (number, attempt, part.device) for number, attempt, part in store.participants_from("run-1", 1, 2)
    ]
    assert found == [(1, 1, "thing-0"), (1, 1, "thing-1"), (2, 1, "thing-1")]
    assert [number for number, _, _ in store.participants_from("run-1", 2, 10)] == [2]


def test_a_device_of_an_earlier_round_is_counted_in_the_open_buffer_once(
    store: RoundStore, buffers: tuple[Round, Round]
) -> None:
    first, second = buffers
    part = store.participant(first, "thing-0")
    assert part
    values = round_metrics.reply_fields(a_reply(announced_at=NOW + 5), NOW + 77)
    store.carry(second, part, (1, 1), Participation.REPLIED, values)

    left, there = store.participant(first, "thing-0"), store.participant(second, "thing-0")
    assert left
    assert there
    assert (left.state, left.to_round, left.to_attempt) == (Participation.CARRIED, 2, 1)
    assert (there.state, there.from_round, there.from_attempt, there.base) == (Participation.REPLIED, 1, 1, 3)
    assert (there.announced_at, there.received_at, there.examples) == (NOW + 5, NOW + 77, 50)
    counted = store.round("run-1", 2, 1)
    assert counted
    assert (counted.replied, counted.accepted, counted.asked, counted.outstanding) == (1, 1, 0, 1)
    with pytest.raises(LostRace):
        store.carry(second, part, (1, 1), Participation.REPLIED, values)
    assert store.round("run-1", 2, 1) == counted


def test_no_device_is_carried_over_to_a_buffer_that_is_not_open(
    store: RoundStore, buffers: tuple[Round, Round]
) -> None:
    first, second = buffers
    part = store.participant(first, "thing-0")
    assert part
    store.move(second, Event.GIVEN_UP)
    with pytest.raises(LostRace):
        store.carry(second, part, (1, 1), Participation.FAILED, {"reason": "no memory"})
    assert store.participant(first, "thing-0") == part
    assert store.participant(second, "thing-0") is None


def test_a_silent_device_that_is_carried_over_takes_part_again(
    store: RoundStore, buffers: tuple[Round, Round]
) -> None:
    first, second = buffers
    part = store.participant(first, "thing-0")
    assert part
    store.move_later(first, part, Participation.SILENT, {})
    silent = store.participant(first, "thing-0")
    assert silent
    store.carry(second, silent, (1, 1), Participation.REPLIED, {"bytes": 7, "received_at": NOW})
    left, counted = store.round("run-1", 1, 1), store.round("run-1", 2, 1)
    assert left
    assert counted
    assert (left.silent, counted.replied, counted.bytes_up, counted.outstanding) == (0, 1, 7, 2)


def test_a_reply_is_held_in_a_round_that_has_ended_once(
    store: RoundStore, buffers: tuple[Round, Round]
) -> None:
    first, _ = buffers
    part = store.participant(first, "thing-0")
    assert part
    store.move_later(first, part, Participation.HELD, round_metrics.reply_fields(a_reply(), NOW + 3))
    held = store.participant(first, "thing-0")
    assert held
    assert (held.state, held.checksum, held.received_at) == (Participation.HELD, "0" * 32, NOW + 3)
    with pytest.raises(LostRace):
        store.move_later(first, part, Participation.LATE, {})
    with pytest.raises(LostRace):  # the round is not in the state that was read
        store.move_later(msgspec.structs.replace(first, state=State.OPEN), held, Participation.LATE, {})
    assert store.participant(first, "thing-0") == held


def test_a_round_is_read_with_some_of_its_participants(store: RoundStore, opened: Round) -> None:
    store.count_reply(opened, as_read("thing-1"), a_reply(), NOW + 9)
    round_, parts = store.round_with("run-1", 1, 1, ("thing-0", "thing-1", "stranger"))
    assert round_ == current(store)
    assert {name: part.state for name, part in parts.items()} == {
        "thing-0": Participation.ASKED,
        "thing-1": Participation.REPLIED,
    }
    assert parts["thing-1"] == store.participant(opened, "thing-1")
    assert store.round_with("run-1", 2, 1, ("thing-0",)) == (None, {})


def test_participants_that_move_together_are_counted_together(store: RoundStore, opened: Round) -> None:
    reply = round_metrics.reply_fields(a_reply(), NOW + 9)
    store.move_together(
        opened,
        [
            Move(as_read("thing-0"), Participation.ACCEPTED, {"reason": ""}),
            Move(as_read("thing-1"), Participation.REPLIED, {**reply, "group": 1}),
            Move(as_read("thing-2"), Participation.DECLINED, {"reason": "busy"}),
        ],
    )
    now = current(store)
    assert (now.accepted, now.replied, now.declined) == (2, 1, 1)
    for name, count in round_metrics.tally(store.participants(opened)).items():
        assert getattr(now, name) == count
    assert [part.device for part in store.members(opened, 1)] == ["thing-1"]


@pytest.mark.parametrize("change", ["participant", "round"])
def test_participants_move_together_or_not_at_all(store: RoundStore, opened: Round, change: str) -> None:
    if change == "participant":
        store.move_participant(opened, as_read("thing-1"), Participation.DECLINED, "busy")
    else:
        store.move(opened, Event.GIVEN_UP)
    before = (current(store), list(store.participants(opened)))
    reply = round_metrics.reply_fields(a_reply(), NOW + 9)
    with pytest.raises(LostRace):
        store.move_together(
            opened, [Move(as_read(f"thing-{n}"), Participation.REPLIED, reply) for n in range(3)]
        )
    assert (current(store), list(store.participants(opened))) == before


def test_of_several_workers_that_move_the_same_participants_one_does(
    store: RoundStore, opened: Round
) -> None:
    reply = round_metrics.reply_fields(a_reply(), NOW + 9)
    moves = [Move(as_read(f"thing-{n}"), Participation.REPLIED, reply) for n in range(3)]
    assert race(lambda _: store.move_together(opened, moves)) == 1
    assert current(store).replied == 3
