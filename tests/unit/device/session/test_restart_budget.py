"""A process that exits, and a nucleus that gives up on a component that exits too often."""

import itertools
import logging
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from components.runtime.process_setup import LOST
from components.trainer.session.restarts import SPACING, RestartBudget
from greengrass_emulator.lifecycle.guarded_script import RestartLimits
from tests.fakes.memory_device import Clock, Device, announcement

NUCLEUS = RestartLimits()


def given_up(exits: list[float]) -> bool:
    """Return whether a nucleus would have given up: three failures within its window."""
    return any(
        sum(1 for other in exits if 0 <= other - exit_ <= NUCLEUS.window_seconds) >= NUCLEUS.failures
        for exit_ in exits
    )


def test_a_first_exit_is_free(tmp_path: Path) -> None:
    assert RestartBudget(tmp_path, Clock()).seconds_to_wait(SPACING) == 0


def test_a_try_waits_for_a_while_after_the_last_exit_and_a_lost_connection_does_not(tmp_path: Path) -> None:
    clock = Clock()
    RestartBudget(tmp_path, clock).take()
    clock.now += 60
    again = RestartBudget(tmp_path, clock)
    assert again.seconds_to_wait() == 0
    assert again.seconds_to_wait(SPACING) == SPACING - 60


def test_a_start_of_the_system_forgets_the_exits_before_it_as_the_nucleus_does(tmp_path: Path) -> None:
    clock = Clock()
    for _ in range(2):
        RestartBudget(tmp_path, clock).take()
    assert RestartBudget(tmp_path, clock).seconds_to_wait() > 0
    clock.now = 12.0
    assert RestartBudget(tmp_path, clock).seconds_to_wait() == 0


@pytest.mark.parametrize("content", [b"", b"{}", b'["soon"]', b"\xff", b"[1e999]"])
def test_a_file_that_cannot_be_read_counts_for_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "exits.json").write_bytes(content)
    budget = RestartBudget(tmp_path, Clock())
    assert budget.seconds_to_wait() == 0
    budget.take()
    assert budget.seconds_to_wait(SPACING) == SPACING


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(wishes=some.lists(some.tuples(some.floats(0, 5000), some.booleans()), max_size=20))
def test_however_often_a_process_wants_to_end_the_nucleus_never_gives_it_up(
    tmp_path_factory: pytest.TempPathFactory, wishes: list[tuple[float, bool]]
) -> None:
    folder, clock = tmp_path_factory.mktemp("exits"), Clock()
    exits: list[float] = []
    for after, is_a_try in wishes:
        clock.now += after
        budget = RestartBudget(folder, clock)
        clock.now += budget.seconds_to_wait(SPACING if is_a_try else 0)
        budget.take()
        exits.append(clock.now)
    assert not given_up(exits)


def test_a_device_that_stays_deaf_is_never_given_up_and_goes_on_subscribing(tmp_path: Path) -> None:
    """Hours in which heartbeats are published and nothing arrives, over several processes."""
    clock, exits, subscriptions = Clock(), [], 0
    until = clock.now + 6 * 3600
    while clock.now < until:
        device = Device(tmp_path, clock=clock, heartbeat_seconds=10)
        device.broker.deaf = True
        while device.exit_code is None and clock.now < until:
            device.passes(30, step=5)
        subscriptions += len(device.broker.subscribed)
        if device.exit_code is not None:
            device.context.restart_budget.take()
            exits.append(clock.now)
    assert not given_up(exits)
    assert len(exits) in range(6, 14)
    assert all(later - earlier >= SPACING for earlier, later in itertools.pairwise(exits))
    assert subscriptions > 100


def test_a_try_that_has_to_wait_is_a_warning_that_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    RestartBudget(tmp_path, Clock()).take()
    device = Device(tmp_path, heartbeat_seconds=10)
    device.broker.deaf = True
    with caplog.at_level(logging.WARNING):
        device.passes(80)
    assert device.exit_code is None
    assert "a new process may help, in 24 minutes at the earliest" in caplog.text


def test_a_process_with_work_in_hand_does_not_end_before_the_work(tmp_path: Path) -> None:
    device = Device(tmp_path, heartbeat_seconds=10)
    device.hears(announcement(deadline_seconds=1000))
    device.broker.deaf = True
    device.passes(300)
    assert device.exit_code is None
    device.finishes()
    assert device.completions
    device.passes(30)
    assert device.exit_code == LOST


def test_an_announcement_that_is_heard_shows_that_the_process_is_not_deaf(tmp_path: Path) -> None:
    device = Device(tmp_path, heartbeat_seconds=10)
    for _ in range(20):
        device.broker.deaf = True
        device.passes(25)
        device.broker.deaf = False
        device.hears(announcement(task="none"))
    assert device.exit_code is None
