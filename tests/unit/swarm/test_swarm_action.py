"""The options of the command, what it asks before it touches an account, and its exit codes."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fedgrass.console import main
from fedgrass.federation.errors import SettingsError
from fedgrass.swarm import swarm_action
from fedgrass.swarm.swarm_action import SwarmOptions, run_options, run_settings, swarm_command
from fedgrass.swarm.swarm_errors import SwarmError, SwarmOptionError
from fedgrass.swarm.swarm_figures import Load, MessageRates
from fedgrass.swarm.swarm_run import Churn, SwarmReport
from fedgrass.swarm.swarm_spec import Habits

SAID: list[str] = []
REPORT = SwarmReport(
    swarm="swarm-1",
    stack="fedgrass",
    embedded=True,
    devices=1,
    run="swarm-1",
    state="SUCCEEDED",
    reason="",
    megabytes=0.1,
    connect_seconds=1.0,
    rounds=(),
    turnaround=None,
    replies_sent=1,
    replies_counted=1,
    completions=1,
    exact=True,
    messages=MessageRates(
        sent=0,
        received=0,
        sent_per_second=0.0,
        received_per_second=0.0,
        most_sent_per_second=0.0,
        most_received_per_second=0.0,
    ),
    functions={},
    dynamodb=None,
    load=Load(
        seconds=1.0,
        cores=2,
        machine=0.0,
        groups={},
        queued=0.0,
        most_queued=0,
        averagers=0.0,
        reply_concurrency=2,
        processes=1,
        train_share=0.0,
    ),
    bottleneck="nothing was saturated",
    churn=Churn(vanished=0, returned=0, lost=0, failed_transfers=0, repeated=0),
    notes=("a note",),
)


def test_the_run_asks_the_devices_of_the_swarm_only() -> None:
    settings = run_settings(SwarmOptions(rounds=4), "swarm-1")
    assert (settings.task, settings.where, settings.rounds) == ("swarm", "swarm == 'swarm-1'", 4)
    assert settings.threshold is None


def test_a_swarm_that_loses_devices_for_good_does_not_wait_for_them() -> None:
    assert run_settings(SwarmOptions(habits=Habits(vanish=0.2)), "s").threshold == 0.6
    assert run_settings(SwarmOptions(habits=Habits(vanish=0.2, return_seconds=5)), "s").threshold is None
    assert run_settings(SwarmOptions(habits=Habits(vanish=0.9)), "s").threshold == 0.1


@pytest.mark.parametrize(
    "setting", ["task=digits", "rounds=3", "where=x == 1", "deadline_second=5", "nothing"]
)
def test_settings_that_do_not_fit_a_swarm_are_refused(setting: str) -> None:
    with pytest.raises(SettingsError, match=setting.partition("=")[0]):
        run_settings(SwarmOptions(settings=(setting,)), "swarm-1")


def test_things_of_a_folder_need_a_stack(tmp_path: Path) -> None:
    with pytest.raises(SwarmOptionError, match="--things needs --stack"):
        run_options(SwarmOptions(things=tmp_path), SAID.append)


def test_an_account_is_not_touched_without_a_yes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.setattr("fedgrass.console.stack.outputs", lambda _: pytest.fail("it has asked AWS"))
    options = SwarmOptions(stack="press", devices=7, out=tmp_path)
    with pytest.raises(SwarmOptionError, match=r"Create 7 things swarm-.* stack press, .*Add --yes"):
        run_options(options, SAID.append)


def test_a_stack_of_another_embedded_cloud_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:4566")
    with pytest.raises(SwarmError, match="leave out --stack to start an embedded cloud here"):
        run_options(SwarmOptions(stack="press"), SAID.append)


def _code(options: SwarmOptions) -> object:
    with pytest.raises(SystemExit) as ended:
        swarm_command(options)
    return ended.value.code


@pytest.mark.parametrize(
    ("state", "exact", "code"), [("SUCCEEDED", True, 0), ("FAILED", True, 1), ("SUCCEEDED", False, 1)]
)
def test_the_exit_code_says_whether_each_reply_was_counted_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], state: str, *, exact: bool, code: int
) -> None:
    report = msgspec.structs.replace(REPORT, state=state, exact=exact, reason="too few replied")
    monkeypatch.setattr(swarm_action, "run_options", lambda *_: report)
    assert _code(SwarmOptions()) == code
    out = capsys.readouterr().out
    assert ("NOT each counted exactly once" in out) is not exact
    assert ("the run is FAILED: too few replied" in out) == (state == "FAILED")
    assert "note: a note" in out
    assert "bottleneck: nothing was saturated" in out


def test_a_failure_is_one_line_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> SwarmReport:
        message = "only 3 of 7 devices connected within 60 s"
        raise SwarmError(message)

    monkeypatch.setattr(swarm_action, "run_options", fail)
    assert _code(SwarmOptions()) == 2
    assert capsys.readouterr().err == "fedgrass swarm: only 3 of 7 devices connected within 60 s\n"


def test_the_json_is_the_report_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(_: SwarmOptions, report: Any) -> SwarmReport:
        report("a step")
        return REPORT

    monkeypatch.setattr(swarm_action, "run_options", run)
    assert _code(SwarmOptions(output="json")) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == json.loads(msgspec.json.encode(REPORT))
    assert "a step" in err


def test_the_words_of_the_command_line_become_options(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[SwarmOptions] = []
    monkeypatch.setattr(swarm_action, "swarm_command", seen.append)
    main.run(["swarm", "--devices", "12", "--vanish", "0.1", "--return", "3", "--double", "1", "--yes"])
    (found,) = seen
    assert (found.devices, found.confirmed) == (12, True)
    assert (found.habits.vanish, found.habits.return_seconds, found.habits.doubled) == (0.1, 3.0, 1.0)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--devices", "0"), "--devices: '0' is not a whole number from 1 to 20,000"),
        (("--vanish", "2"), "--vanish: '2' is not a number from 0 to 1"),
        (("--ramp", "0"), "--ramp: '0' is not a number from 0.1"),
    ],
)
def test_options_out_of_range_are_refused(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], named: str
) -> None:
    with pytest.raises(SystemExit):
        main.run(["swarm", *words])
    assert named in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_to_is_named_before_anything_is_started(tmp_path: Path) -> None:
    (tmp_path / "runs").touch()
    with pytest.raises(SwarmOptionError, match=r"--out .*runs/swarm-.* cannot be written to"):
        run_options(SwarmOptions(out=tmp_path / "runs"), SAID.append)


def test_a_swarm_that_fails_leaves_no_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with pytest.raises(SwarmOptionError, match="no terminal to ask"):
        run_options(SwarmOptions(stack="press", out=tmp_path), SAID.append)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (SwarmOptions(settings=("mode=server_app",)), "mode=server_app is not allowed"),
        (SwarmOptions(habits=Habits(return_seconds=5)), "--return 5 needs --vanish"),
    ],
)
def test_what_light_devices_cannot_do_is_refused(options: SwarmOptions, reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        run_settings(options, "s")
