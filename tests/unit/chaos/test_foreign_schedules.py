"""Schedules in memory with every kind of fault, and proof that they find the defects they look for."""

import random
from collections.abc import Iterable
from typing import Any

import pytest

from cloud_functions.aggregation import aggregation_context
from cloud_functions.aggregation.combiner import Factors
from cloud_functions.recovery import manifests
from cloud_functions.rounds import shards, sweep
from fedgrass.federation.rounds import Participation
from fedgrass.local.in_memory.virtual_clock import VirtualClock
from tests.chaos.in_memory import foreign_schedules
from tests.chaos.in_memory.disturbed_ports import CALM, Chances, Disturber
from tests.chaos.in_memory.foreign_schedules import SCALES, Played, draw, play
from tests.chaos.in_memory.simulated_queue import Queue
from tests.chaos.in_memory.simulation import KILLED, Disturbances, Simulation, is_stated
from tests.fakes.memory_cloud import MemoryBucket, MemoryRounds

pytestmark = pytest.mark.slow


def problems(seeds: Iterable[int]) -> list[str]:
    return [f"seed {played.seed}: {problem}" for played in map(play, seeds) for problem in played.problems]


@pytest.mark.parametrize("first", [0, 20, 40, 60, 80])
def test_no_schedule_ends_with_a_wrong_average_a_reply_counted_twice_or_a_stuck_run(
    first: int,
) -> None:
    assert problems(range(first, first + 20)) == []


# Each has found a defect: a run whose row is older than its rounds, a lost shard that was recorded as made,
# a round without participants after a repair, a round left open, a damaged cohort.
@pytest.mark.parametrize(
    "seed", [38, 144, 194, 254, 451, 627, 825, 867, 916, 1310, 1498, 1611, 2081, 2149, 2761, 2848, 30156]
)
def test_schedules_that_once_found_a_defect(seed: int) -> None:
    assert play(seed, buffered=False).problems == []


def test_a_seed_repeats_its_schedule() -> None:
    first, second = play(7), play(7)
    assert first == second


def test_every_kind_of_fault_happens_in_some_schedule() -> None:
    happened = {what for seed in range(30) for what in play(seed).happened}
    assert happened == set(Chances.__struct_fields__)


def test_without_disturbances_every_run_succeeds() -> None:
    for scale in SCALES:
        calm = Simulation(1, Disturbances(), scale, {"rounds": 3})
        calm.play()
        run = calm.run()
        assert run is not None
        assert (run.state, calm.problems, calm.queue.all_letters) == ("SUCCEEDED", [], [])


# ---------------------------------------------------------------- defects introduced on purpose
def overwriting_copy(bucket: MemoryBucket, source: str, target: str) -> bool:
    bucket.objects[target] = bucket.objects[source]
    return True


def found(seeds: Iterable[int]) -> set[str]:
    return {problem.partition(":")[0] for seed in seeds for problem in play(seed).problems}


def test_a_model_overwritten_after_a_restore_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryBucket, "copy_once", overwriting_copy)
    monkeypatch.setattr(manifests, "why_behind", lambda *_, **__: "")
    monkeypatch.setattr(manifests, "is_same", lambda *_: True)
    assert "wrong" in found(range(35, 60))


def test_a_partial_sum_of_other_updates_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    original = MemoryRounds.members

    def members(self: MemoryRounds, of: object, group: int) -> object:
        parts = list(original(self, of, group))  # type: ignore[arg-type]
        return iter([*parts, *parts[:1]])  # one participant counts twice

    monkeypatch.setattr(MemoryRounds, "members", members)
    seeds = [seed for seed in range(60) if draw(seed).scale.group == 2]
    assert "wrong" in found(seeds)


def test_a_reply_counted_twice_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    original = MemoryRounds._move

    def twice(self: MemoryRounds, of: Any, part: Any, target: Participation, **changes: object) -> None:
        original(self, of, part, target, **changes)
        if target is Participation.REPLIED and part.state is Participation.ASKED:
            self._change(of, replied=self._stored(of).replied + 1)

    monkeypatch.setattr(MemoryRounds, "_move", twice)
    assert "twice" in found(range(10))


BUFFERED = range(1, 60, 2)  # odd seeds


def test_stale_updates_are_in_the_models_of_buffered_runs() -> None:
    assert sum(play(seed).stale for seed in BUFFERED) > 50


def test_a_model_without_the_weights_of_its_stale_updates_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aggregation_context, "staleness_weight", lambda *_: 1.0)
    assert found(BUFFERED) == {"wrong"}


def test_a_change_relative_to_the_newest_model_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aggregation_context, "started_from", lambda round_, _: round_.base)
    assert found(BUFFERED) == {"wrong"}


def test_weights_that_are_normalised_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    original = aggregation_context._stale

    def normalised(context: Any, replies: Any, factors: Any) -> Any:
        stale = original(context, replies, factors)
        return Factors(stale.model / stale.model.mean(), stale.carried)

    monkeypatch.setattr(aggregation_context, "_stale", normalised)
    assert found(BUFFERED) == {"wrong"}


def test_a_reply_counted_in_two_buffers_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    original = MemoryRounds.carry

    def carry(self: MemoryRounds, of: Any, part: Any, origin: Any, *rest: Any) -> None:
        original(self, of, part, origin, *rest)
        self._participants[of.run, *origin, part.device] = part  # in flight again, instead of CARRIED

    monkeypatch.setattr(MemoryRounds, "carry", carry)
    assert "twice" in found(BUFFERED)


# Each has found a defect of buffered runs: a device in flight twice after a restore, a round whose replies
# another averager had refused, replies counted in a table that was restored, a shard lost with its update.
@pytest.mark.parametrize("seed", [465, 563, 2157, 3061, 6163, 7039, 7671])
def test_schedules_of_buffered_runs_that_once_found_a_defect(seed: int) -> None:
    assert play(seed, buffered=True).problems == []


def problems_without_messages_and_alarms() -> list[str]:
    """Play a run whose devices receive nothing and whose first alarms are lost."""
    disturbances = Disturbances(seconds=900, alarms_never=1.0)
    settings = {"rounds": 2, "accept_seconds": 0, "deadline_seconds": 1500}
    simulation = Simulation(1, disturbances, SCALES[0], settings)
    simulation.hear = lambda *_: None  # type: ignore[method-assign]
    simulation.play()
    return simulation.problems


def test_a_run_whose_alarms_are_lost_is_advanced_by_the_sweep() -> None:
    assert problems_without_messages_and_alarms() == []


def test_a_run_that_is_never_advanced_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "is_stuck", lambda *_: False)
    assert any("stuck" in problem for problem in problems_without_messages_and_alarms())


def test_a_dead_letter_whose_error_was_not_injected_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        message = "a defect"
        raise ZeroDivisionError(message)

    monkeypatch.setattr(shards, "make", fail)
    monkeypatch.setattr("cloud_functions.aggregation.partial_sums.sum_group", fail)
    seeds = [seed for seed in range(40) if draw(seed).scale != SCALES[0]]
    assert "letter" in found(seeds)


# ---------------------------------------------------------------- parts of the simulation
def test_a_dead_letter_is_explained_only_by_injected_faults() -> None:
    waited = "retried later: another averager holds the lease"
    assert is_stated([KILLED, "failed: InjectedError: injected: move failed"], [], averagers_die=False)
    assert is_stated([KILLED, waited], [], averagers_die=True)
    assert not is_stated([waited] * 10, [], averagers_die=False)
    assert is_stated([KILLED, "failed: KeyError: 'x'"], ["x"], averagers_die=True)
    assert not is_stated([KILLED, "failed: KeyError: 'x'"], ["another"], averagers_die=True)


def test_a_queue_redelivers_a_message_and_finally_gives_up() -> None:
    clock, dice = VirtualClock(0), random.Random(1)  # noqa: S311 - repeatable, not a secret
    queue = Queue(clock, dice, lambda _body: "no")
    queue.send({"sweep": True})
    queue.send({"job": {}})
    clock.run_until(10**9, most=100)
    assert sorted(len(letter.reasons) for letter in queue.letters) == [Queue.MOST_TRIES] * 2


def test_a_calm_disturber_changes_no_call() -> None:
    dice = random.Random(1)  # noqa: S311 - repeatable, not a secret
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
