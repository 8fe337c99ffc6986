"""When the campaign kills a function: at each step in turn, once, and only while faults are injected."""

from collections import Counter

import pytest

from tests.chaos.faults import Faults
from tests.chaos.kills import Kills
from tests.chaos.steps import STEPS


def strikes(kills: Kills, function: str, rounds: int) -> Counter[tuple[str, str]]:
    """Arm a kill before each pass through all steps; return how often each step was killed at."""
    struck: Counter[tuple[str, str]] = Counter()
    for _ in range(rounds):
        kills.arm(function)
        for step in STEPS[function]:
            for _ in range(2):  # a step may send two requests, and be killed between them
                if moment := kills.for_step(function, step):
                    struck[step, moment] += 1
    return struck


@pytest.mark.parametrize("function", STEPS)
def test_every_step_of_a_function_is_killed_at_before_and_after(function: str) -> None:
    struck = strikes(Kills(Faults(1), "north"), function, rounds=400)
    expected = {(step, moment) for step in STEPS[function] for moment in ("before", "after")}
    assert expected <= struck.keys()


def test_a_kill_strikes_once() -> None:
    kills, struck = Kills(Faults(1), "north"), 0
    kills.arm("averager")
    for _ in range(3):
        struck += sum(kills.for_step("averager", step) is not None for step in STEPS["averager"])
    assert struck == 1


def test_nothing_is_killed_unarmed_or_after_the_faults_ended() -> None:
    faults = Faults(1)
    kills = Kills(faults, "north")
    assert not any(kills.for_step("averager", step) for step in STEPS["averager"])
    assert kills.for_step("devices", "update_read") is None
    kills.arm("averager")
    faults.end()
    assert not any(kills.for_step("averager", step) for step in STEPS["averager"])


def test_a_step_that_never_comes_does_not_protect_the_others() -> None:
    kills, struck = Kills(Faults(1), "north"), 0
    for _ in range(10 * len(STEPS["averager"])):
        kills.arm("averager")
        struck += kills.for_step("averager", "reply_counted") is not None
    assert struck >= 2
