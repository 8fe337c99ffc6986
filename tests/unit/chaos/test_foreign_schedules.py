"""Schedules in memory in which everything goes wrong, and that they find what they are there to find."""

import random
from collections.abc import Iterable

import pytest

from cloud_functions.aggregation import partial_sums
from cloud_functions.recovery import manifests
from cloud_functions.rounds import shards, sweep
from fedgrass.federation.rounds import Participation
from tests.chaos.in_memory import foreign_schedules
from tests.chaos.in_memory.disturbed_ports import CALM, Chances, Disturber
from tests.chaos.in_memory.foreign_schedules import SCALES, Played, draw, play
from tests.chaos.in_memory.simulated_queue import Clockwork, Queue
from tests.chaos.in_memory.simulation import KILLED, Disturbances, Simulation, is_stated
from tests.fakes.memory_cloud import MemoryBucket, MemoryRounds

pytestmark = pytest.mark.slow


def problems(seeds: Iterable[int]) -> list[str]:
    return [f"seed {one.seed}: {problem}" for one in map(play, seeds) for problem in one.problems]


@pytest.mark.parametrize("first", [0, 20, 40, 60, 80])
def test_no_schedule_ends_with_a_wrong_average_a_reply_counted_twice_or_a_run_that_is_stuck(
    first: int,
) -> None:
    assert problems(range(first, first + 20)) == []


# Each has shown a defect: a run with a row older than its rounds, a shard that was noted as made and gone, a
# round without participants after a repair, one left open, a damaged cohort.
@pytest.mark.parametrize(
    "seed", [38, 144, 194, 254, 451, 627, 825, 867, 916, 1310, 1498, 1611, 2081, 2149, 2761, 2848, 30156]
)
def test_schedules_that_have_shown_a_defect(seed: int) -> None:
    assert problems([seed]) == []


def test_a_seed_does_the_same_again() -> None:
    first, second = play(7), play(7)
    assert first == second


def test_everything_goes_wrong_somewhere() -> None:
    happened = {what for seed in range(30) for what in play(seed).happened}
    assert happened == set(Chances.__struct_fields__)


def test_without_disturbances_every_run_succeeds() -> None:
    for scale in SCALES:
        calm = Simulation(1, Disturbances(), scale, {"rounds": 3})
        calm.play()
        run = calm.run()
        assert run is not None
        assert (run.state, calm.problems, calm.queue.all_letters) == ("SUCCEEDED", [], [])


# ---------------------------------------------------------------- defects that are put in
def overwrite(bucket: MemoryBucket, source: str, target: str) -> bool:
    bucket.objects[target] = bucket.objects[source]
    return True


def found(seeds: Iterable[int]) -> set[str]:
    return {problem.partition(":")[0] for seed in seeds for problem in play(seed).problems}


def test_a_model_that_is_written_again_after_a_restore_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryBucket, "copy_once", overwrite)
    monkeypatch.setattr(manifests, "why_behind", lambda *_: "")
    monkeypatch.setattr(manifests, "is_same", lambda *_: True)
    assert "wrong" in found(range(30))


def test_a_sum_of_a_group_of_other_updates_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    as_it_is = MemoryRounds.members

    def members(self: MemoryRounds, of: object, group: int) -> object:
        parts = list(as_it_is(self, of, group))  # type: ignore[arg-type]
        return iter([*parts, *parts[:1]])  # one of them counts twice

    monkeypatch.setattr(MemoryRounds, "members", members)
    seeds = [seed for seed in range(60) if draw(seed).scale.group == 2]
    assert "wrong" in found(seeds)


def test_a_reply_that_is_counted_twice_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    as_it_is = MemoryRounds.count_reply

    def twice(self: MemoryRounds, of: object, part: object, *rest: object) -> None:
        as_it_is(self, of, part, *rest)  # type: ignore[arg-type]
        if part.state is Participation.ASKED:  # type: ignore[attr-defined]
            self._change(of, replied=self._stored(of).replied + 1)  # type: ignore[arg-type]

    monkeypatch.setattr(MemoryRounds, "count_reply", twice)
    assert "twice" in found(range(10))


def unheard_and_without_alarms() -> list[str]:
    """Play a run whose devices hear nothing, and whose first alarms never ring."""
    wrong = Disturbances(seconds=900, alarms_never=1.0)
    settings = {"rounds": 2, "accept_seconds": 0, "deadline_seconds": 1500}
    simulation = Simulation(1, wrong, SCALES[0], settings)
    simulation.hear = lambda *_: None  # type: ignore[method-assign]
    simulation.play()
    return simulation.problems


def test_a_run_whose_alarms_are_lost_is_woken_by_the_sweep() -> None:
    assert unheard_and_without_alarms() == []


def test_a_run_that_no_message_wakes_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "stands_still", lambda *_: False)
    assert any("stuck" in problem for problem in unheard_and_without_alarms())


def test_a_dead_letter_whose_error_was_not_injected_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        message = "a defect"
        raise ZeroDivisionError(message)

    monkeypatch.setattr(shards, "make", fail)
    monkeypatch.setattr(partial_sums, "add_up", fail)
    seeds = [seed for seed in range(40) if draw(seed).scale != SCALES[0]]
    assert "letter" in found(seeds)


# ---------------------------------------------------------------- its parts
def test_a_stated_reason_is_what_was_done_to_the_message() -> None:
    waited = "retried later: another averager holds the lease"
    assert is_stated([KILLED, "failed: InjectedError: injected: move failed"], [], averagers_die=False)
    assert is_stated([KILLED, waited], [], averagers_die=True)
    assert not is_stated([waited] * 10, [], averagers_die=False)
    assert is_stated([KILLED, "failed: KeyError: 'x'"], ["x"], averagers_die=True)
    assert not is_stated([KILLED, "failed: KeyError: 'x'"], ["another"], averagers_die=True)


def test_a_queue_gives_a_message_back_and_up_in_the_end() -> None:
    clock, dice = Clockwork(0), random.Random(1)  # noqa: S311
    queue = Queue(clock, dice, lambda _body: "no")
    queue.send({"sweep": True})
    queue.send({"job": {}})
    clock.run_until(10**9, most=100)
    assert sorted(len(letter.reasons) for letter in queue.letters) == [Queue.MOST_TRIES] * 2


def test_a_calm_disturber_leaves_every_call_alone() -> None:
    dice = random.Random(1)  # noqa: S311
    disturber = Disturber(dice, lambda: None, lambda: None)
    assert disturber.chances is CALM
    assert [disturber.call("move", lambda n: n, (number,), {}) for number in range(99)] == list(range(99))


def test_the_report_counts_each_kind_and_names_the_seeds() -> None:
    played = [
        Played(1, "SUCCEEDED", 2, 0, {"stale": 3}, []),
        Played(2, "RUNNING", 1, 1, {}, ["stuck: the run is RUNNING", "wrong: model 1"]),
    ]
    lines, bad = foreign_schedules.report(played, 0.0)
    assert bad == 1
    assert "  seed 2: wrong: model 1" in lines
    assert lines[-1] == "wrong: 1, twice: 0, stuck: 1, letter: 0"
