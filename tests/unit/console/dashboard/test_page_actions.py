from collections.abc import Callable

import pytest

from fedgrass.console.dashboard.pages.page_actions import (
    RUN_ACTIONS,
    Actions,
    AliasLine,
    ReadOnly,
    RunAction,
    offered,
)
from fedgrass.federation.errors import SettingsError
from tests.fakes.fleet_source import FakeOperator

ALIAS = AliasLine(task="digits", alias="production", run="digits-7", number=3, serial=2)


def made(*, read_only: bool = False) -> tuple[Actions, FakeOperator]:
    operator = FakeOperator()
    return Actions(lambda: operator, operator, read_only=read_only), operator


@pytest.mark.parametrize("action", RUN_ACTIONS, ids=[action.name for action in RUN_ACTIONS])
def test_each_action_on_a_run_reaches_the_operator(action: RunAction) -> None:
    actions, operator = made()
    assert "digits-7" in actions.on_run(action.name, "digits-7")
    assert operator.done == [(action.name, "digits-7")]


def test_a_read_only_page_refuses_every_action_on_the_server() -> None:
    actions, operator = made(read_only=True)
    attempts: list[Callable[[], str]] = [
        lambda: actions.on_run("cancel", "digits-7"),
        lambda: actions.start("digits-8", {"task": "digits"}),
        lambda: actions.forget("device-1", 0),
        lambda: actions.promote(ALIAS),
        lambda: actions.rollback(ALIAS),
    ]
    for attempt in attempts:
        with pytest.raises(ReadOnly, match="read-only"):
            attempt()
    assert operator.done == []


def test_an_action_that_the_page_does_not_have_is_refused() -> None:
    actions, operator = made()
    for action in ("send", "finish", "repair", ""):
        with pytest.raises(SettingsError, match="it may be one of pause"):
            actions.on_run(action, "digits-7")
    assert operator.done == []


def test_names_that_the_browser_sends_are_checked() -> None:
    actions, operator = made()
    with pytest.raises(SettingsError, match="cannot name a run"):
        actions.on_run("pause", "../x")
    with pytest.raises(SettingsError, match="cannot name a thing"):
        actions.forget("<b>", 0)
    assert operator.done == []


def test_a_run_starts_with_the_settings_of_the_form() -> None:
    actions, operator = made()
    actions.start("digits-8", {"task": "digits", "rounds": "3", "evaluate_last": True}, " digits-7/2 ")
    assert operator.done == [("start", "digits-8")]
    assert operator.settings == {
        "settings": {"task": "digits", "rounds": 3},
        "continue_from": {"run": "digits-7", "round": 2},
    }


@pytest.mark.parametrize(
    "source", ["digits-7", "digits-7/", "/3", "digits-7/x", "digits-7/12345678", "a b/3"]
)
def test_a_source_that_is_no_round_of_a_run_is_refused(source: str) -> None:
    actions, operator = made()
    with pytest.raises(SettingsError):
        actions.start("digits-8", {"task": "digits"}, source)
    assert operator.done == []


def test_settings_that_contradict_each_other_are_refused_before_anything_is_asked() -> None:
    actions, operator = made()
    with pytest.raises(SettingsError, match="rounds"):
        actions.start("digits-8", {"task": "digits", "rounds": "0"})
    assert operator.done == []


def test_what_the_initiator_refuses_is_passed_on() -> None:
    actions, operator = made()
    operator.refused["pause"] = "digits-7 is PAUSED already"
    with pytest.raises(SettingsError, match="PAUSED already"):
        actions.on_run("pause", "digits-7")


def test_actions_are_offered_by_the_state_of_the_run() -> None:
    assert [action.name for action in offered("RUNNING")] == ["pause", "next", "retry", "cancel"]
    assert [action.name for action in offered("PAUSED")] == ["resume", "cancel"]
    assert [action.name for action in offered("FAILED")] == ["retry"]
    assert offered("SUCCEEDED") == []
