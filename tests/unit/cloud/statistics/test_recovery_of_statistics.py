"""Rounds of statistics survive crashes, lost rows and lost drafts as other rounds do."""

import contextlib
from typing import Any

import numpy as np

from cloud_functions.recovery import repair
from fedgrass.federation import object_keys
from fedgrass.federation.rounds import Participation, State, Work
from fedgrass.federation.runs import RunState
from fedgrass.federation.statistics.data_summary import Batch
from tests.fakes.memory_cloud import Crash
from tests.fakes.small_fleet import RUN, crash_at_every_call
from tests.fakes.statistics_fleet import StatisticsFleet

EXACT = {"statistics": ["mean", "variance"]}


def data(number: int) -> list[Batch]:
    return [{"x": np.arange(20.0) * (number + 1)}]


def fleet(query: dict[str, Any] | None = None, **settings: Any) -> StatisticsFleet:
    made = StatisticsFleet(data, 6, query or {}, **settings)
    made.start()
    return made


def test_a_crash_at_any_call_of_the_last_reply_changes_nothing_of_the_result() -> None:
    expected = fleet(EXACT)
    expected.all_answer()
    crashes = 0
    while True:
        made = fleet(EXACT)
        for device in made.names[:-1]:
            made.answers(device)
        made.counter.plan_crash(call=crashes + 1)
        try:
            made.answers(made.names[-1])
        except Crash:
            crashes += 1
        else:
            break
        made.pass_time(120)  # the lease of the averager that crashed expires
        made.counter.forget_plans()
        made.deliver({"sweep": {}})
        if made.run().state is RunState.RUNNING:
            made.answers(made.names[-1])
            made.deliver({"sweep": {}})
        assert made.run().state is RunState.SUCCEEDED
        assert made.result(1) == expected.result(1)
        assert set(made.parts().values()) == {Participation.REPLIED}
    assert crashes > 10


def test_a_run_whose_rows_were_all_lost_is_repaired_and_continues_with_the_agreed_edges() -> None:
    made = fleet()
    made.all_answer()
    assert made.newest().number == 2
    edges = made.announced_query("thing-0").edges
    made.rounds.lose(runs=True, rounds=True, participants=True)
    assert crash_at_every_call(made, lambda f: repair.act(f.cloud, {"action": "repair", "run": RUN})) > 5
    assert made.run().state is RunState.PAUSED
    made.act("resume")
    made.act("retry")
    assert (made.newest().work, made.newest().number) == (Work.STATISTICS, 2)
    assert made.announced_query("thing-0").edges == edges
    made.all_answer()
    assert made.run().state is RunState.SUCCEEDED
    assert made.result(2).devices == 6


def test_a_finished_run_whose_rows_were_lost_is_repaired_as_it_was() -> None:
    made = fleet(EXACT)
    made.all_answer()
    before, result = made.run(), made.result(1)
    made.rounds.lose(runs=True, rounds=True, participants=True)
    repair.act(made.cloud, {"action": "repair", "run": RUN})
    assert (made.run().state, made.run().reason) == (before.state, before.reason)
    assert made.result(1) == result


def closed_without_its_draft(query: dict[str, Any], made: StatisticsFleet | None = None) -> StatisticsFleet:
    """Return a fleet whose averager crashed between closing the round and keeping its file, which is lost."""
    made = made or fleet(query)
    for device in made.names[:-1]:
        made.answers(device)
    made.counter.plan_crash(name="copy_once", call=2)
    with contextlib.suppress(Crash):
        made.answers(made.names[-1])
    made.counter.forget_plans()
    assert made.newest().state is State.CLOSED
    for key in [key for key in made.bucket.objects if key.endswith("/statistics.json")]:
        del made.bucket.objects[key]
    made.deliver({"sweep": {}})
    made.remind()
    return made


def test_a_lost_draft_without_sketches_is_made_again_from_the_answers() -> None:
    made = closed_without_its_draft(EXACT)
    assert made.run().state is RunState.SUCCEEDED
    assert made.result(1).devices == 6


def test_a_lost_draft_that_other_sketches_would_replace_ends_the_run_with_its_reason() -> None:
    def large(number: int) -> list[Batch]:
        return [{"x": np.random.default_rng(number).normal(size=3000)}]

    made = StatisticsFleet(large, 6, {"statistics": ["quantiles"]})
    made.start()
    closed_without_its_draft(EXACT, made)
    assert made.run().state is RunState.FAILED
    assert "the statistics of round 1 are lost" in made.run().reason
    assert "start them again in another run" in made.run().reason


def test_paused_runs_open_no_second_round_and_cancelled_ones_have_no_result() -> None:
    made = fleet()
    made.act("pause")
    made.all_answer()
    assert (made.newest().number, made.run().state) == (1, RunState.PAUSED)
    made.act("resume")
    assert made.newest().number == 2
    made.act("cancel")
    assert made.newest().state is State.ABANDONED
    assert not [key for key in made.bucket.objects if key == object_keys.statistics(RUN, 2)]


def test_a_late_answer_is_refused_and_not_counted() -> None:
    made = fleet(EXACT, threshold_count=5)
    first = made.newest()
    for device in made.names[:-1]:
        made.answers(device)
    assert made.run().state is RunState.SUCCEEDED
    made.answers(made.names[-1], made.answer_of(made.names[-1]))
    assert made.part(made.names[-1], first).state is Participation.LATE
    assert made.result(1).devices == 5


def test_a_device_that_declines_is_replaced_by_another_one() -> None:
    made = StatisticsFleet(data, 8, EXACT, selection="random", count=5)
    made.start()
    asked = sorted(made.parts())
    made.status(asked[0], "declined", reason="this device answers no statistics")
    others = sorted(set(made.parts()) - set(asked))
    assert len(others) == 1
    for device in [*asked[1:], *others]:
        made.answers(device)
    assert made.result(1).devices == 5
