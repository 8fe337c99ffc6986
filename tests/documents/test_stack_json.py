"""The JSON of stacks, costs, statistics and checks equals the golden files, and the page has its fields."""

import json
from pathlib import Path

import msgspec
import pytest

from fedgrass.console import main
from fedgrass.console.deploy.costs import CostPart, Costs, Fleet
from fedgrass.console.results import Steps, reported_steps, show_result
from fedgrass.console.runs.dead_letters import Letter, letter_list
from fedgrass.console.statistics.statistics_actions import Comparison, run_list
from fedgrass.console.terminal import prompt, say
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.runs import Run, RunState
from fedgrass.federation.settings_parser import parse_settings
from fedgrass.federation.statistics.drift import Drift
from fedgrass.local.check_report import report_of
from greengrass_emulator.control import control_client
from greengrass_emulator.control.control_client import ComponentDescription, CoreDescription
from tests.documents.golden_files import fields, golden_text

QUEUE = "arn:aws:sqs:eu-central-1:123456789012:fedgrass-replies"


def letters() -> object:
    lost = {"ruleName": "replies", "topic": "clients/a", "failures": [{"errorMessage": "no such queue"}]}
    return letter_list([Letter("r1", '{"run": "digits-1"}', QUEUE, 3), Letter("r2", json.dumps(lost), "", 1)])


def statistics_runs() -> object:
    run = Run(
        name="look-1",
        state=RunState.SUCCEEDED,
        settings=parse_settings({"task": "digits", "statistics": {"features": ["pixel_*", "labels"]}}),
        started_at=1,
        initial_sha256="0" * 64,
        initial_bytes=1,
    )
    training = msgspec.structs.replace(run, name="digits-1", settings=parse_settings({"task": "digits"}))
    return run_list([run, training])


def comparison() -> object:
    drift = Drift(
        feature="age",
        index=0.31,
        distance=0.2,
        critical=0.05,
        mean_before=40.5,
        mean_after=44.25,
        missing_before=0.0,
        missing_after=0.125,
        verdict="major",
    )
    return Comparison(features=(drift,), count=1)


def check() -> object:
    lines = [
        "ok    import: cracks:Cracks is found",
        "note  warning of a library: slow",
        "FAIL  training: the loss is nan",
        "      memory: 512 MB",
    ]
    return report_of("cracks:Cracks", 1, lines)


def steps() -> object:
    changes = ("Add      RoundsTable (AWS::DynamoDB::Table)", "nothing was changed (--dry-run)")
    return Steps(dry_run=True, steps=changes, count=2)


def costs() -> object:
    egress = CostPart(name="egress", dollars_per_round=0.18, dollars_per_month=5.4)
    heartbeats = CostPart(name="heartbeats", dollars_per_round=0.0, dollars_per_month=13.25)
    fleet = Fleet(devices=100, model_megabytes=20.0)
    return Costs(fleet=fleet, parts=(egress, heartbeats), dollars_per_round=0.18, dollars_per_month=18.65)


RESULTS = {
    "costs": costs,
    "queue-show": letters,
    "stats-list": statistics_runs,
    "stats-compare": comparison,
    "task-check": check,
    "deploy-cloud": steps,
}


@pytest.mark.parametrize("name", RESULTS)
def test_the_json_of_a_command_is_that_of_its_golden_file(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    show_result(RESULTS[name](), "json", print)
    assert capsys.readouterr().out == golden_text(name)


@pytest.mark.parametrize("name", RESULTS)
def test_every_command_with_a_golden_file_has_a_section_with_its_fields(name: str, project: Path) -> None:
    page = (project / "docs" / "json.md").read_text(encoding="utf-8")
    assert f"fedgrass {name.replace('-', ' ')}" in page
    found = fields(json.loads(golden_text(name)))
    assert [field for field in sorted(found) if f"`{field}`" not in page] == []


def test_the_json_of_the_cores_is_that_of_its_golden_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = ComponentDescription(name="com.fedgrass.Trainer", version="0.5.0", state="RUNNING")
    core = CoreDescription(
        thing="device-1",
        profile="lite",
        pid=4711,
        root="/srv/cores/device-1",
        components=[trainer],
        faults={"broker-cut": 3, "disk-full": None},
    )
    monkeypatch.setattr(control_client, "running_cores", lambda: ([core], ["device-2 does not answer"]))
    main.run(["core", "list", "--output", "json"])
    assert capsys.readouterr().out == golden_text("core-list")


def test_steps_are_printed_as_they_come_or_as_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    with reported_steps("text"):
        say("one")
        assert capsys.readouterr().out == "one\n"
    with reported_steps("json", dry_run=True):
        say("one")
        say("\x1b[2Jtwo")
        assert capsys.readouterr().out == ""
    printed = json.loads(capsys.readouterr().out)
    assert printed == {"dry_run": True, "steps": ["one", "\\x1b[2Jtwo"], "count": 2}
    with pytest.raises(ValueError, match="refused"), reported_steps("json"):
        raise ValueError("refused")  # noqa: EM101 - the example
    assert capsys.readouterr().out == ""


def test_nothing_is_asked_about_lines_that_are_not_shown() -> None:
    with (
        pytest.raises(SettingsError, match="--output json asks no question: add --yes"),
        reported_steps("json"),
    ):
        prompt("type it:")


def test_costs_as_json_are_those_of_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    main.run(["costs", "--devices", "50", "--output", "json"])
    printed = json.loads(capsys.readouterr().out)
    assert printed["fleet"]["devices"] == 50
    assert sum(part["dollars_per_month"] for part in printed["parts"]) == pytest.approx(
        printed["dollars_per_month"]
    )


OWN = """
import numpy as np
print("user code prints at import")

class Own:
    def examples(self):
        return 1
    def initial_weights(self, seed):
        {body}
    def evaluate(self, *_):
        return {{"loss": 0.0}}
    def fit(self, *_):
        pass
"""


@pytest.mark.parametrize(
    ("body", "text"), [("return 1 / 0", "ZeroDivisionError"), ("import os; os._exit(3)", "exit code 3")]
)
def test_a_check_as_json_is_one_object_whatever_user_code_prints_or_does(
    body: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN.format(body=body))
    with pytest.raises(SystemExit) as ended:
        main.run(["task", "check", "own:Own", "--output", "json"])
    printed = capfd.readouterr()
    report = json.loads(printed.out)
    assert (report["subject"], report["passed"]) == ("own:Own", False)
    assert report["exit_code"] == ended.value.code != 0
    assert any(line["kind"] == "fail" and text in line["text"] for line in report["lines"])
    assert "user code prints at import" in printed.err
