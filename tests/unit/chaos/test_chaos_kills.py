"""When the campaign kills: each step of a function in its turn, once, and only while things go wrong."""

from collections import Counter

import pytest

from tests.chaos.faults import Faults
from tests.chaos.kills import Kills
from tests.chaos.steps import STEPS


def strikes(kills: Kills, function: str, rounds: int) -> Counter[tuple[str, str]]:
    """Arm kills, each before all steps come in their order; return those that struck."""
    struck: Counter[tuple[str, str]] = Counter()
    for _ in range(rounds):
        kills.arm(function)
        for step in STEPS[function]:
            for _ in range(2):  # a step's second request, between which and the first one it may die
                if moment := kills.for_step(function, step):
                    struck[step, moment] += 1
    return struck


@pytest.mark.parametrize("function", STEPS)
def test_every_step_of_a_function_is_killed_at_before_and_after(function: str) -> None:
    struck = strikes(Kills(Faults(1), "north"), function, rounds=400)
    wanted = {(step, moment) for step in STEPS[function] for moment in ("before", "after")}
    assert wanted <= struck.keys()


def test_a_kill_strikes_once() -> None:
    kills, struck = Kills(Faults(1), "north"), 0
    kills.arm("averager")
    for _ in range(3):
        struck += sum(kills.for_step("averager", step) is not None for step in STEPS["averager"])
    assert struck == 1


def test_nothing_is_killed_that_was_not_armed_or_once_the_faults_have_ended() -> None:
    faults = Faults(1)
    kills = Kills(faults, "north")
    assert not any(kills.for_step("averager", step) for step in STEPS["averager"])
    assert kills.for_step("devices", "update_read") is None
    kills.arm("averager")
    faults.end()
    assert not any(kills.for_step("averager", step) for step in STEPS["averager"])


def test_a_step_that_never_comes_does_not_keep_others_from_being_killed_at() -> None:
    kills, struck = Kills(Faults(1), "north"), 0
    for _ in range(10 * len(STEPS["averager"])):
        kills.arm("averager")
        struck += kills.for_step("averager", "reply_counted") is not None
    assert struck >= 2
