"""A run under any order of messages, losses, crashes, races and requests that hypothesis generates."""

import contextlib
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import initialize, precondition, rule

from fedgrass.federation.aggregation.sharding_plan import Scale
from tests.fakes.memory_cloud import Crash
from tests.fakes.small_fleet import RUN
from tests.unit.cloud.rounds.state_machine.round_laws import IN_GROUPS, IN_SHARDS, Fleet
from tests.unit.cloud.rounds.state_machine.round_rules import Rules, port_calls

actions = st.sampled_from(["pause", "resume", "resume", "retry", "next", "next", "pause", "cancel"])
cohorts = st.sampled_from(
    [
        {},
        {"threshold": 0.5},
        {"threshold": 0.75},
        {"selection": "random", "count": 3},
        {"selection": "random", "count": 3, "threshold_count": 2},
        {"selection": "random", "count": 3, "over_selection": 1.3},
    ]
)
schedules = st.sampled_from(
    [
        {},
        {},
        {"schedule": "every", "every_minutes": 2},
        {"schedule": "adaptive", "every_minutes": 1},
        {"schedule": "by_hand"},
    ]
)
others = st.fixed_dictionaries(
    {
        "minimum_replies": st.integers(1, 2),
        "aggregation": st.sampled_from(["mean", "weighted_mean"]),
        "on_abandoned": st.sampled_from(["retry", "retry", "fail"]),
        "patience": st.sampled_from([0, 0, 1]),
        "accept_seconds": st.sampled_from([0, 30, 30]),
        "evaluate_every": st.sampled_from([0, 0, 1, 2]),
    }
)


def together(parts: tuple[Any, Any, Any]) -> dict[str, Any]:
    """Return the settings of a short run, merged from some dictionaries."""
    made: dict[str, Any] = {"attempts": 3, "rounds": 3, "target_metric": "loss"}
    for part in parts:
        made |= part
    return made


chosen_settings = st.tuples(cohorts, schedules, others).map(together)
scales = st.sampled_from([None, None, IN_GROUPS, IN_SHARDS])


class RoundMachine(Rules):
    """Devices, workers and the operator act in any order; the invariants hold after each step."""

    @initialize(
        chosen=chosen_settings,
        scale=scales,
        crash=st.none() | st.integers(1, 20),
        may_cancel=st.sampled_from([False, False, False, True]),
    )
    def start(
        self,
        chosen: dict[str, Any],
        scale: Scale | None,
        crash: int | None,
        may_cancel: bool,  # noqa: FBT001 - drawn
    ) -> None:
        self.may_cancel = may_cancel  # in some runs only: it ends the run
        self.fleet = Fleet(scale, **chosen)
        if crash:
            self.fleet.counter.plan_crash(call=crash)
        try:
            self.fleet.start()
        except Crash:
            if self.fleet.rounds.run(RUN) is None:  # otherwise its reminder remains
                self.fleet.start()
        self.fleet.counter.forget_plans()

    # ------------------------------------------------------------ what the operator does
    @rule()
    def the_operator_starts_the_run_again(self) -> None:
        self.fleet.start()

    @rule(action=actions)
    def the_operator_asks_something(self, action: str) -> None:
        self._ask(action)

    @rule(action=actions, call=port_calls)
    def who_does_what_the_operator_asks_dies(self, action: str, call: int) -> None:
        self.fleet.counter.plan_crash(call=call)
        with contextlib.suppress(Crash):
            self._ask(action)
        self.fleet.counter.forget_plans()

    @precondition(lambda self: self.fleet.sent)
    @rule(data=st.data(), call=port_calls, action=actions)
    def the_operator_asks_something_while_a_worker_works(
        self, data: st.DataObject, call: int, action: str
    ) -> None:
        body = self._draw(data)
        self.fleet.counter.plan(lambda: self._ask(action), call=call)
        if self._take(body):
            self.fleet.sent.remove(body)
        self.fleet.counter.forget_plans()


TestRoundMachine = pytest.mark.slow(RoundMachine.TestCase)
TestRoundMachine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
