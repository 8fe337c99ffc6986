"""What people see of a run: the live view, the table, the files."""

import json
from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console

from fedgrass.console import history, run_commands
from fedgrass.console.live import LiveView
from fedgrass.console.operator import Operator, RoundRecord
from fedgrass.federation import messages, topics
from fedgrass.federation.messages import Announcement, Completion, RoundChange, RoundFigures, Status
from fedgrass.federation.rounds import Participant, Participation, Round, State
from fedgrass.federation.runs import Run, RunState
from fedgrass.federation.settings import RunSettings
from fedgrass.federation.topics import Kind

WORK: dict[str, Any] = {"run": "run-1", "round": 1, "attempt": 1}


def view(width: int = 100) -> tuple[LiveView, Console]:
    console = Console(record=True, width=width, force_terminal=False)
    return LiveView(console, "run-1", rounds=5), console


def hear(live: LiveView, kind: Kind, message: messages.Message) -> None:
    live.hear(topics.of_device("fedgrass", "thing-1", kind), messages.encode(message))


def shown(live: LiveView) -> str:
    console = Console(record=True, width=100)
    console.print(live._render())
    return console.export_text()


def record(state: State = State.CLOSED, **changes: int) -> RoundRecord:
    common: dict[str, Any] = {
        "announced_at": 1000,
        "bytes": 2_000_000,
        "metrics": {"accuracy": 0.5, "loss": 1.0},
    }
    participants = [
        Participant(device="a", state=Participation.REPLIED, received_at=3000, **common),
        Participant(device="b", state=Participation.REPLIED, received_at=5000, **common),
        Participant(device="c", state=Participation.REFUSED, received_at=4000, **common),
        Participant(device="d", state=Participation.LATE, received_at=99_000, announced_at=1000),
        Participant(device="e", state=Participation.ASKED, announced_at=1000),
    ]
    counts: dict[str, Any] = {
        "asked": 5,
        "replied": 3,
        "accepted": 4,
        "declined": 0,
        "failed": 0,
        "silent": 0,
        "refused": 1,
        "bytes_up": 4_000_000,
        "late": 1,
        "needed": 5,
        "minimum": 1,
        **changes,
    }
    times: dict[str, Any] = {"opened_at": 1000, "deadline_at": 9000, "closed_at": 9500}
    named: dict[str, Any] = {
        "run": "run-1",
        "number": 2,
        "attempt": 1,
        "base_sha256": "0" * 64,
        "base_bytes": 1_000_000,
    }
    return RoundRecord(Round(state=state, **named, **counts, **times), participants)


def test_a_device_is_shown_from_its_announcement_to_its_completion() -> None:
    live, _ = view()
    announcement = Announcement(
        **WORK,
        work="train",
        task="digits",
        announced_at=1,
        deadline_seconds=9,
        bucket="b",
        model_key="k",
        model_sha256="0" * 64,
        model_bytes=1,
    )
    hear(live, Kind.ANNOUNCE, announcement)
    assert "asked" in shown(live)
    hear(live, Kind.STATUS, Status(**WORK, state="progress", progress=0.5))
    assert "training" in shown(live)
    done = Completion(**WORK, round_id="run-1/1/1", announced_at=1, bytes=1, checksum="0" * 32, examples=3)
    hear(live, Kind.COMPLETE, done)
    assert "done" in shown(live)
    hear(live, Kind.STATUS, Status(**WORK, state="progress", progress=0.9))
    assert "done" in shown(live), "a late word of progress takes nothing back"


def test_a_failure_is_shown_with_its_reason() -> None:
    live, _ = view()
    hear(live, Kind.STATUS, Status(**WORK, state="failed", reason="the disk is full"))
    assert "failed" in shown(live)
    assert "the disk is full" in shown(live)


def test_only_the_changes_of_the_run_that_is_shown_are_told() -> None:
    live, console = view()
    for run, text in (("run-1", "opened"), ("another", "abandoned")):
        change = RoundChange(run=run, round=1, attempt=1, state="OPEN", text=text)
        live.hear(topics.of_run("fedgrass", run), messages.encode(change))
    told = console.export_text()
    assert "opened" in told
    assert "abandoned" not in told


def test_the_figures_of_a_round_that_ended_are_shown_without_what_did_not_happen() -> None:
    live, console = view()
    figures = RoundFigures(
        asked=5, accepted=4, declined=1, failed=0, silent=0, late=0, refused=0, replied=4, needed=4,
        bytes_up=4_000_000, bytes_down=8_000_000, opening_seconds=0.25, averaging_seconds=1.5,
    )  # fmt: skip
    change = RoundChange(run="run-1", round=1, attempt=1, state="CLOSED", text="closed", figures=figures)
    live.hear(topics.of_run("fedgrass", "run-1"), messages.encode(change))
    expected = (
        "5 asked, 4 accepted, 4 replied, 1 declined; 4.00 MB up, 8.00 MB down; "
        "opened in 0.25 s, averaged in 1.50 s"
    )
    assert expected in console.export_text().replace("\n", "")


def test_text_of_a_device_cannot_style_or_break_the_view() -> None:
    live, console = view()
    hear(live, Kind.STATUS, Status(**WORK, state="failed", reason="[bold]x[/nonsense] [/]"))
    assert "[bold]x[/nonsense] [/]" in shown(live)
    change = RoundChange(run="run-1", round=1, attempt=1, state="OPEN", text="[/] [red]boo")
    live.hear(topics.of_run("fedgrass", "run-1"), messages.encode(change))
    assert "[/] [red]boo" in console.export_text()


def test_a_message_that_cannot_be_read_is_named() -> None:
    live, console = view()
    live.hear("fedgrass/fedgrass/clients/thing-1/complete", b"no json")
    assert "unreadable" in console.export_text()


def test_a_summary_counts_neither_late_nor_silent_devices_in_its_turnarounds() -> None:
    line = history.summarize(record(), {2: {"accuracy": 0.9}})
    assert line["turnaround_median_seconds"] == 3.0
    assert line["turnaround_slowest_seconds"] == 4.0
    assert line["bytes_up"] == 4_000_000
    assert line["bytes_down"] == 4_000_000
    assert line["seconds"] == 8.5
    assert line["held_out"] == {"accuracy": 0.9}


def test_the_table_fits_eighty_columns_and_says_what_was_abandoned() -> None:
    console = Console(record=True, width=80)
    summaries = [history.summarize(record(), {2: {"accuracy": 0.9, "loss": 0.1}})]
    console.print(history.table(summaries))
    told = console.export_text()
    assert "…" not in told
    assert "5 / 3 / 1" in told
    assert "90.0%" in told
    console.print(history.table([history.summarize(record(State.ABANDONED), {})]))
    assert "abandoned" in console.export_text()


def test_a_run_that_waits_for_a_device_says_since_when(capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(
        name="run-1",
        state=RunState.RUNNING,
        settings=RunSettings(task="digits"),
        started_at=1,
        initial_sha256="0" * 64,
        initial_bytes=1,
        waiting_since=1_700_000_000_000,
    )

    class NoRounds:
        def rounds(self, _run: Run) -> list[RoundRecord]:
            return []

    run_commands._show(cast(Operator, NoRounds()), run)
    assert "it waits for a device that it can ask, since 22:13:20 UTC" in capsys.readouterr().out


def test_a_run_is_written_with_its_model_history_and_picture(tmp_path: Path) -> None:
    run = Run(
        name="run-1",
        state=RunState.SUCCEEDED,
        settings=RunSettings(task="digits"),
        started_at=1,
        initial_sha256="0" * 64,
        initial_bytes=1,
        round=2,
        attempt=1,
    )
    summaries = [history.summarize(record(), {2: {"accuracy": 0.9, "loss": 0.1}})]
    history.write(tmp_path / "run-1", run, summaries, b"model", {2: {"accuracy": 0.9}})
    assert (tmp_path / "run-1" / "model.safetensors").read_bytes() == b"model"
    written = json.loads((tmp_path / "run-1" / "history.json").read_text())
    assert written["rounds"][0]["devices"][0]["device"] == "a"
    assert (tmp_path / "run-1" / "accuracy.png").read_bytes().startswith(b"\x89PNG")
