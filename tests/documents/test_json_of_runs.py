"""The JSON of ``fedgrass run``: golden files of its forms, and docs/json.md has every field."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fedgrass.console.reports.report_figures import Point
from fedgrass.console.reports.run_comparison import ComparedRun, Comparison, DifferingSetting
from fedgrass.console.reports.run_report import Reported
from fedgrass.console.runs.fleet_operator import RoundRecord
from fedgrass.console.runs.operator_actions import Repaired
from fedgrass.console.runs.run_display import RunLine, RunList, RunShown, Trouble, shown_run
from fedgrass.console.runs.run_download import Downloaded
from fedgrass.console.runs.run_follow import RunEvent, Waited
from fedgrass.console.runs.run_forecast import Forecast, FoundedOn
from fedgrass.federation.rounds import Participant, Participation, Round, State
from fedgrass.federation.runs import Run, RunAction, RunState
from fedgrass.federation.settings import RunSettings
from tests.documents.golden_files import golden_text

PAGE = Path(__file__).parents[2] / "docs" / "json.md"
AT = 1_700_000_000_000
ADA = "arn:aws:iam::123456789012:user/ada"


def shown() -> RunShown:
    """Return a run of two rounds, the second with a device that failed and one that stayed silent."""
    run = Run(
        name="night-1",
        state=RunState.RUNNING,
        settings=RunSettings(task="digits", rounds=10, training={"lr": 0.1}),
        started_at=AT,
        initial_sha256="0" * 64,
        initial_bytes=24_776,
        round=2,
        attempt=1,
        history=(RunAction(at=AT, action="start", by=ADA),),
    )
    common: dict[str, Any] = {
        "run": "night-1", "attempt": 1, "state": State.CLOSED, "needed": 3, "minimum": 1,
        "base_sha256": "0" * 64, "base_bytes": 24_776, "asked": 3,
    }  # fmt: skip
    replied: dict[str, Any] = {"bytes": 24_776, "examples": 100, "accepted": True}
    first = Round(
        **common, number=1, opened_at=AT, deadline_at=AT + 60_000, closed_at=AT + 8_000, accepted=3,
        replied=3, bytes_up=74_328, metrics={"accuracy": 0.1, "loss": 2.3},
        opening_seconds=0.25, averaging_seconds=0.5,
    )  # fmt: skip
    second = Round(
        **common, number=2, opened_at=AT + 9_000, deadline_at=AT + 69_000, closed_at=AT + 69_000,
        accepted=2, replied=1, failed=1, silent=1, base=1, bytes_up=24_776,
        metrics={"accuracy": 0.8, "loss": 0.5},
    )  # fmt: skip
    parts = [
        Participant(device="press-1", state=Participation.REPLIED, announced_at=AT + 9_000,
                    received_at=AT + 12_000, **replied),
        Participant(device="press-2", state=Participation.FAILED, announced_at=AT + 9_000,
                    reason="the disk is full"),
        Participant(device="press-3", state=Participation.SILENT, announced_at=AT + 9_000),
    ]  # fmt: skip
    all_replied = [
        Participant(device=f"press-{number}", state=Participation.REPLIED, announced_at=AT,
                    received_at=AT + 1000 * number, **replied)
        for number in (1, 2, 3)
    ]  # fmt: skip
    records = [RoundRecord(first, all_replied), RoundRecord(second, parts)]
    found = shown_run(run, [first, second], records)
    return msgspec.structs.replace(found, dollars=0.00014)  # depends on prices: see test_run_costs.py


FORMS: dict[str, msgspec.Struct] = {
    "run-list": RunList(
        runs=[
            RunLine(
                name="night-1",
                state=RunState.RUNNING,
                task="digits",
                round=2,
                trained=2,
                rounds=10,
                metric="accuracy",
                value=0.8,
                started_at=AT,
                ended_at=None,
                started_by=ADA,
            )
        ],
        count=1,
    ),
    "run-show": shown(),
    "run-start-dry-run": Forecast(
        run="night-2",
        task="digits",
        devices=["press-1", "press-2"],
        devices_count=2,
        replies_needed=2,
        rounds=10,
        evaluations=1,
        model_bytes=24_776,
        device_download_bytes=24_776,
        device_upload_bytes=24_928,
        download_bytes=545_072,
        upload_bytes=498_560,
        round_seconds=8.0,
        seconds=81.5,
        dollars=0.001,
        founded_on=FoundedOn(
            devices="the devices table now: every device that meets the run's requirements",
            bytes="the file of the initial model and the run's encodings",
            seconds="the median of the last 2 training rounds of run night-1",
            dollars="the bytes above and the prices of docs/costs.md",
        ),
        warnings=[],
    ),
    "run-follow": RunEvent(
        kind="device",
        run="night-1",
        state="FAILED",
        round=2,
        attempt=1,
        device="press-2",
        reason="the disk is full",
    ),
    "run-wait": Waited(
        name="night-1", state=RunState.SUCCEEDED, reason="all 10 rounds closed", timed_out=False
    ),
    "run-download": Downloaded(
        run="night-1",
        folder="runs/night-1",
        files=["accuracy.png", "history.json", "model.safetensors"],
        model=10,
        model_bytes=24_776,
    ),
    "run-report": Reported(
        run="night-1",
        page="runs/night-1/report.html",
        page_bytes=631_353,
        pictures=["runs/night-1/report/accuracy.png"],
    ),
    "run-compare": Comparison(
        settings=[DifferingSetting(name="training", values=[{}, {"lr": 0.1}])],
        metric="accuracy",
        runs=[
            ComparedRun(
                name="night-1",
                state=RunState.SUCCEEDED,
                task="digits",
                rounds=11,
                seconds=81.5,
                bytes_down=545_072,
                bytes_up=498_560,
                dollars=0.001,
                last=0.8,
                best=0.9,
                best_model=9,
                points=[Point(0, 8.0, 148_656, 0.1)],
            )
        ],
    ),
    "run-repair": Repaired(
        run="night-1", dry_run=True, lines=["would write round 2 attempt 1: CLOSED"], count=1
    ),
}


PARTS: dict[str, tuple[type[msgspec.Struct], ...]] = {
    "run-list": (RunLine,),
    "run-show": (Trouble,),
    "run-start-dry-run": (FoundedOn,),
    "run-compare": (ComparedRun, DifferingSetting, Point),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_form_is_that_of_its_golden_file(name: str) -> None:
    golden = json.loads(golden_text(name))
    assert msgspec.to_builtins(FORMS[name]) == golden, "a field was renamed or removed: scripts read it"
    assert list(msgspec.to_builtins(FORMS[name])) == list(golden)


@pytest.mark.parametrize("name", FORMS)
def test_the_page_has_every_field_of_a_form(name: str) -> None:
    sections = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    command = {"run-start-dry-run": "run start --dry-run"}.get(name, name.replace("-", " "))
    section = next(text for text in sections if f"`fedgrass {command}" in text.splitlines()[0])
    fields = set(msgspec.to_builtins(FORMS[name]))
    fields |= {field for part in PARTS.get(name, ()) for field in part.__struct_fields__}
    missing = [field for field in sorted(fields) if f"`{field}`" not in section]
    assert missing == []
