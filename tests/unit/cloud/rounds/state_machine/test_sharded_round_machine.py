"""Rounds in groups and in shards under any order of messages, crashes and races.

Few runs of ``RoundMachine`` have a round that is made in parts; here every run has some.
"""

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import initialize, rule

from fedgrass.federation.aggregation.sharding_plan import Scale
from tests.unit.cloud.rounds.state_machine.round_laws import IN_GROUPS, IN_SHARDS, Fleet
from tests.unit.cloud.rounds.state_machine.round_rules import Rules

chosen_settings = st.fixed_dictionaries(
    {
        "rounds": st.integers(1, 2),
        "threshold": st.sampled_from([1.0, 1.0, 0.75]),
        "aggregation": st.sampled_from(["mean", "weighted_mean"]),
    }
)


class DividedRoundMachine(Rules):
    """The parts of a round are made, lost with their workers, made twice and joined."""

    @initialize(chosen=chosen_settings, scale=st.sampled_from([IN_GROUPS, IN_SHARDS]))
    def start(self, chosen: dict[str, Any], scale: Scale) -> None:
        self.fleet = Fleet(scale, attempts=5, deadline_seconds=3600, **chosen)
        self.fleet.start()
        self.the_cohort_replies(bad=None)

    @rule(bad=st.none() | st.integers(0, 9))
    def the_cohort_replies(self, bad: int | None) -> None:
        """All devices were asked and one update may be bad; no message was delivered yet."""
        for number, name in enumerate(self.fleet.names):
            if name in self.fleet.parts():
                self.a_device_replies(number, good=int(number != bad), old=False)

    @rule(data=st.data(), most=st.integers(1, 8))
    def some_messages_are_delivered(self, data: st.DataObject, most: int) -> None:
        for _ in range(most):
            if self.fleet.sent:
                self.a_message_is_delivered(data, again=False)


TestDividedRoundMachine = pytest.mark.slow(DividedRoundMachine.TestCase)
TestDividedRoundMachine.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
