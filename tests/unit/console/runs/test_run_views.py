"""The views of a run: the live view, the table, the files."""

import errno
import json
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from rich.console import Console

import package
from fedgrass.console import main, stack
from fedgrass.console.commands import run_commands
from fedgrass.console.main import parse
from fedgrass.console.runs import fleet_operator, history, history_picture, run_display, run_start
from fedgrass.console.runs.fleet_operator import Operator, RoundRecord
from fedgrass.console.runs.live_view import LiveView
from fedgrass.console.stack import StackError
from fedgrass.federation import messages, topics
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.messages import Announcement, Completion, RoundChange, RoundFigures, Status
from fedgrass.federation.rounds import Participant, Participation, Round, State
from fedgrass.federation.runs import Run, RunState
from fedgrass.federation.settings import RunSettings
from fedgrass.federation.topics import Kind

pytestmark = pytest.mark.slow  # seconds of trainings, crashes or processes: make test runs them

WORK: dict[str, Any] = {"run": "run-1", "round": 1, "attempt": 1}


@pytest.fixture(autouse=True)
def _clients_of_its_own() -> Iterator[None]:
    """Isolate the AWS clients of each test."""
    stack.client.cache_clear()
    yield
    stack.client.cache_clear()


def view(width: int = 100) -> tuple[LiveView, Console]:
    console = Console(record=True, width=width, force_terminal=False)
    return LiveView(console, "run-1", rounds=5), console


def hear(live: LiveView, kind: Kind, message: messages.Message) -> None:
    live.receive(topics.of_device("fedgrass", "thing-1", kind), messages.encode(message))


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
    named: dict[str, Any] = {
        "run": "run-1",
        "number": changes.pop("number", 2),
        "attempt": changes.pop("attempt", 1),
        "base_sha256": "0" * 64,
        "base_bytes": 1_000_000,
    }
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


def test_only_changes_of_the_run_that_is_shown_are_printed() -> None:
    live, console = view()
    for run, text in (("run-1", "opened"), ("another", "abandoned")):
        change = RoundChange(run=run, round=1, attempt=1, state="OPEN", text=text)
        live.receive(topics.of_run("fedgrass", run), messages.encode(change))
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
    live.receive(topics.of_run("fedgrass", "run-1"), messages.encode(change))
    expected = (
        "5 asked, 4 accepted, 4 replied, 1 declined; 4.00 MB up, 8.00 MB down; "
        "opened in 0.25 s, averaged in 1.50 s"
    )
    assert expected in console.export_text().replace("\n", "")


def test_the_figures_of_a_buffer_include_the_age_of_its_replies_and_the_wasted_work() -> None:
    live, console = view()
    figures = RoundFigures(
        asked=5, accepted=4, declined=0, failed=0, silent=0, late=1, refused=0, replied=4, needed=4,
        bytes_up=4_000_000, bytes_down=8_000_000, opening_seconds=0.25, averaging_seconds=1.5,
        in_flight_before=3, overdue=1, stale=2, wasted=3, staleness_mean=1.25, staleness_max=4,
    )  # fmt: skip
    change = RoundChange(run="run-1", round=1, attempt=1, state="CLOSED", text="closed", figures=figures)
    live.receive(topics.of_run("fedgrass", "run-1"), messages.encode(change))
    told = " ".join(console.export_text().split())
    assert "4 replied, 1 late, 1 overdue, 2 stale, 3 wasted;" in told
    assert "averaged in 1.50 s; 1.25 models old on average, 4 at most" in told


def test_the_table_of_a_buffered_run_shows_the_age_of_its_replies_and_the_wasted_work() -> None:
    console = Console(record=True, width=80)
    found = record(in_flight=9, stale=2, staleness_max=4)
    found = RoundRecord(msgspec.structs.replace(found.round, staleness_mean=1.5), found.participants)
    console.print(history.table([history.summarize(found, {})]))
    told = console.export_text()
    assert "…" not in told
    for figure in ("models old", "1.5 / 4", "wasted", "5 / 3 / 3"):  # one late, two stale
        assert figure in told


def test_text_of_a_device_cannot_style_or_break_the_view() -> None:
    live, console = view()
    hear(live, Kind.STATUS, Status(**WORK, state="failed", reason="[bold]x[/nonsense] [/]"))
    assert "[bold]x[/nonsense] [/]" in shown(live)
    change = RoundChange(run="run-1", round=1, attempt=1, state="OPEN", text="[/] [red]boo")
    live.receive(topics.of_run("fedgrass", "run-1"), messages.encode(change))
    assert "[/] [red]boo" in console.export_text()


def test_a_message_that_cannot_be_read_is_named() -> None:
    live, console = view()
    live.receive("fedgrass/fedgrass/clients/thing-1/complete", b"no json")
    assert "unreadable" in console.export_text()


def test_a_summary_counts_neither_late_nor_silent_devices_in_its_turnarounds() -> None:
    line = history.summarize(record(), {2: {"accuracy": 0.9}})
    assert line["turnaround_median_seconds"] == 3.0
    assert line["turnaround_slowest_seconds"] == 4.0
    assert line["bytes_up"] == 4_000_000
    assert line["bytes_down"] == 4_000_000
    assert line["seconds"] == 8.5
    assert line["held_out"] == {"accuracy": 0.9}


@pytest.mark.parametrize("state", State)
def test_the_table_fits_eighty_columns_and_shows_the_outcome_of_a_round(state: State) -> None:
    console = Console(record=True, width=80)
    found = record(state, number=100, attempt=3)
    console.print(history.table([history.summarize(found, {100: {"accuracy": 0.9, "loss": 0.1}})]))
    told = console.export_text()
    assert "…" not in told
    for figure in ("100.3", "5 / 3 / 1", "3.00 / 4.00", "4.00 / 4.00", "8.50"):
        assert figure in told
    assert ("90.0%" in told) == (state is State.CLOSED)
    assert (state.lower() in told) == (state is not State.CLOSED)


def test_a_narrow_terminal_hides_no_figure() -> None:
    console = Console(record=True, width=50)
    console.print(history.table([history.summarize(record(), {2: {"accuracy": 0.9, "loss": 0.1}})]))
    told = console.export_text()
    assert "…" not in told
    for figure in ("3.00", "4.00", "8.50", "90.0%", "0.100"):
        assert figure in told


def test_a_table_without_held_out_data_has_what_the_devices_measured() -> None:
    console = Console(record=True, width=80)
    found = record()
    measured = msgspec.structs.replace(found.round, metrics={"accuracy": 0.75, "loss": 0.5})
    console.print(history.table([history.summarize(RoundRecord(measured, found.participants), {})]))
    told = console.export_text()
    assert "local" in told
    assert "75.0%" in told
    assert "…" not in told


def test_a_table_has_what_the_devices_own_models_measured_behind_the_global_one() -> None:
    console = Console(record=True, width=80)
    found = record()
    metrics = {"accuracy": 0.75, "loss": 0.5, "local_accuracy": 0.8125, "local_loss": 0.25}
    measured = msgspec.structs.replace(found.round, metrics=metrics)
    console.print(history.table([history.summarize(RoundRecord(measured, found.participants), {})]))
    told = console.export_text()
    assert "75.0/81.2%" in told
    assert "0.500/0.250" in told
    assert "…" not in told


def test_ctrl_c_while_the_command_line_is_read_ends_the_command_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(_words: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "parse", interrupted)
    with pytest.raises(SystemExit) as ended:
        main.command()
    assert ended.value.code == 130


def test_settings_may_stand_behind_the_options(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    monkeypatch.setattr(run_commands, "_start", lambda *_words, **named: given.append(named["settings"]))
    main.run(["run", "start", "a", "task=noise", "--stack", "other", "rounds=3", 'where=x == "y"'])
    assert given == [("task=noise", "rounds=3", 'where=x == "y"')]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "start", "a", "--stak=b"], "unknown option: --stak=b: did you mean --stack?"),
        (["run", "list", "task=x"], "task=x"),
        (["run", "start", "a", "--x"], "unknown option: --x"),
        (["run", "strat", "a"], "did you mean start?"),
    ],
)
def test_a_word_that_no_command_knows_is_refused(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main.run(words)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[1]", "contains [1] instead of a JSON object of settings"),
        ("{", "is not valid JSON"),
        ('{"round": 1}', "did you mean"),
    ],
)
def test_a_bad_settings_file_is_refused_by_what_is_wrong_in_it(
    tmp_path: Path, content: str, said: str
) -> None:
    file = tmp_path / "settings.json"
    file.write_text(content)
    with pytest.raises(SettingsError, match=re.escape(said)):
        main.run(["run", "start", "a", "--settings-file", str(file), "task=noise"])


@pytest.mark.slow
def test_a_demos_cloud_that_is_gone_is_reported_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as bound:  # and not listening: no other process takes the port
        bound.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{bound.getsockname()[1]}"
        for name in ("AWS_PROFILE", "AWS_CONFIG_FILE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        with pytest.raises(StackError, match=f"AWS_ENDPOINT_URL is {endpoint}, the cloud of a demo: is it"):
            main.run(["run", "list"])


@pytest.mark.parametrize("variable", ["AWS_REGION", "AWS_DEFAULT_REGION"])
def test_the_region_is_taken_from_either_variable(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    _without_aws(monkeypatch)
    monkeypatch.setenv(variable, "eu-central-1")
    assert stack.client("s3").meta.region_name == "eu-central-1"


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, "must specify a region. Set AWS_PROFILE, or AWS_REGION and credentials"),
        ({"AWS_PROFILE": "nobody"}, "profile (nobody) could not be found. Set"),
        ({"AWS_REGION": "eu central"}, "'eu central'"),
        ({"AWS_REGION": "eu-central-1", "AWS_ENDPOINT_URL": "garbage"}, "Invalid endpoint: garbage"),
        ({"AWS_REGION": "eu-central-1"}, "cannot be read: it needs credentials: set AWS_PROFILE"),
    ],
)
def test_what_is_wrong_with_the_environment_is_reported_in_one_line(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], said: str
) -> None:
    _without_aws(monkeypatch)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StackError, match=re.escape(said)) as told:
        main.run(["run", "list"])
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("words", [["deploy", "cloud"], ["deploy", "devices", "--group", "garden"]])
def test_a_deployment_without_credentials_reports_how_to_set_them(
    monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    _without_aws(monkeypatch)
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    command = parse(words)
    with pytest.raises(StackError, match="needs credentials: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and"):
        command()


def _without_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove all AWS configuration: variables, files and instance metadata."""
    for name in os.environ:
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def test_a_run_that_waits_for_a_device_shows_since_when(capsys: pytest.CaptureFixture[str]) -> None:
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
        def rounds(self, _run: Run, _first: int = 1) -> list[RoundRecord]:
            return []

    run_display.show_run(cast(Operator, NoRounds()), run)
    assert "waiting for an eligible device since 22:13:20 UTC" in capsys.readouterr().out


def finished_run() -> Run:
    return Run(
        name="run-1",
        state=RunState.SUCCEEDED,
        settings=RunSettings(task="digits"),
        started_at=1,
        initial_sha256="0" * 64,
        initial_bytes=1,
        round=2,
        attempt=1,
    )


def test_the_latest_warning_of_a_collapsed_average_is_shown_with_its_causes() -> None:
    quiet, warned = history.summarize(record(), {}), history.summarize(record(), {})
    assert history.collapse([quiet]) == []
    warned["collapse"] = "model 1 is far worse\nlikely cause: label skew"
    assert history.collapse([warned, quiet]) == [
        "round 2.1 warning: model 1 is far worse",
        "  likely cause: label skew",
    ]


@pytest.mark.slow
def test_a_run_is_written_with_its_model_history_and_picture(tmp_path: Path) -> None:
    summaries = [history.summarize(record(), {2: {"accuracy": 0.9, "loss": 0.1}})]
    history.write(tmp_path / "run-1", finished_run(), summaries, b"model", {2: {"accuracy": 0.9}})
    assert (tmp_path / "run-1" / "model.safetensors").read_bytes() == b"model"
    written = json.loads((tmp_path / "run-1" / "history.json").read_text())
    assert written["rounds"][0]["devices"][0]["device"] == "a"
    assert (tmp_path / "run-1" / "accuracy.png").read_bytes().startswith(b"\x89PNG")


def test_a_file_of_a_run_that_cannot_be_written_is_reported_and_leaves_no_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summaries = [history.summarize(record(), {})]
    fsync = os.fsync

    def fsync_on_a_disk_that_fills(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").readlink().name.startswith("history.json"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync_on_a_disk_that_fills)
    with pytest.raises(SettingsError, match=r"history\.json cannot be written: No space left on device"):
        history.write(tmp_path, finished_run(), summaries, b"model", {})
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_the_page_of_the_history_has_every_field_that_is_written_and_no_other(tmp_path: Path) -> None:
    history.write(tmp_path, finished_run(), [history.summarize(record(), {})], None, {})
    written = json.loads((tmp_path / "history.json").read_text())
    page = (package.ROOT / "docs" / "history.md").read_text()
    for heading, found in (
        ("of the run", written),
        ("of a round", written["rounds"][0]),
        ("of a device", written["rounds"][0]["devices"][0]),
    ):
        table = page.split(f"| {heading} |")[1].split("\n\n")[0]
        cells = re.findall(r"^\| ([^|]*) \|", table, re.MULTILINE)
        assert {name for cell in cells for name in re.findall(r"`(\w+)`", cell)} == set(found), heading


def failed_record(*said: tuple[str, str]) -> RoundRecord:
    parts = [
        Participant(device=device, state=Participation.FAILED, announced_at=1000, reason=reason)
        for device, reason in said
    ]
    return RoundRecord(record(State.ABANDONED).round, parts)


class Fleet:
    """An operator with the given rounds and runs, which starts no existing run."""

    def __init__(self, rounds: list[RoundRecord], runs: list[str]) -> None:
        self._rounds = rounds
        self._runs = runs

    def runs(self) -> dict[str, RunState]:
        return dict.fromkeys(self._runs, RunState.SUCCEEDED)

    def act(self, _action: str, _name: str, **_details: object) -> Run:
        return finished_run()

    def rounds(self, _run: Run, _first: int = 1) -> list[RoundRecord]:
        return self._rounds

    def rounds_alone(self, _run: Run, _first: int = 1) -> list[Round]:
        return [each.round for each in self._rounds]


def test_a_run_shows_why_its_devices_failed_once_per_reason(
    capsys: pytest.CaptureFixture[str],
) -> None:
    full = [(name, "the disk is\nfull [/]") for name in "abcde"]
    failed = failed_record(("f", "no such task"), *full)
    run_display.show_run(cast(Operator, Fleet([failed, record(State.OPEN)], [])), finished_run())
    assert capsys.readouterr().out.splitlines()[-4:] == [
        "round 2.1 a, b, c, d, e failed: the disk is full [/]",
        "round 2.1 f failed: no such task",
        "round 2.1 c refused",
        "round 2.1 d late",
    ]


def test_a_late_device_is_late_once() -> None:
    late = Participant(device="a", state=Participation.LATE, announced_at=1, reason="late: the run is FAILED")
    summary = history.summarize(RoundRecord(record().round, [late]), {})
    assert history.reasons([summary]) == ["round 2.1 a late: the run is FAILED"]


def test_a_reason_is_shown_to_its_end_where_the_file_of_the_traceback_is() -> None:
    reason = f"FileNotFoundError: {'long/' * 70}: traceback: failures/run-1-1.txt"
    assert history.reasons([history.summarize(failed_record(("a", reason)), {})]) == [
        f"round 2.1 a failed: {reason}"
    ]


def test_old_reasons_are_not_repeated() -> None:
    summaries = [history.summarize(r, {}) for r in (failed_record(("a", "no")), record(), record())]
    assert history.reasons(summaries[:2]) == ["round 2.1 a failed: no"]
    assert history.reasons(summaries) == []
    assert history.reasons([]) == []


@pytest.mark.parametrize(("runs", "told"), [(["run-1"], 1), (["run-2"], 0)])
def test_starting_an_existing_run_is_reported(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, runs: list[str], told: int
) -> None:
    monkeypatch.setattr(fleet_operator, "open_operator", lambda _stack: Fleet([], runs))
    run_start.start("fedgrass", "text", name="run-1", settings=("task=digits",))
    assert capsys.readouterr().err.count("run run-1 already exists") == told


def test_a_device_that_did_not_reply_has_no_turnaround() -> None:
    devices = {line["device"]: line for line in history.summarize(record(), {})["devices"]}
    assert devices["a"]["turnaround_seconds"] == 2.0
    assert devices["e"]["turnaround_seconds"] is None


def drawn(record: RoundRecord) -> list[Any]:
    """Draw a run of one round; return its panels."""
    return history_picture.make_figure("run-1", [history.summarize(record, {})], {}).axes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("metrics", "panels"),
    [
        ({"accuracy": 0.5, "loss": 1.0}, ["accuracy", "turnaround, s"]),
        ({"loss": 1.0, "change": 3.0}, ["loss", "turnaround, s"]),
        ({"change": 3.0}, ["turnaround, s"]),
        ({}, ["turnaround, s"]),
    ],
)
def test_the_picture_shows_what_the_task_reports_and_never_nothing(
    metrics: dict[str, float], panels: list[str]
) -> None:
    found = record()
    devices = [msgspec.structs.replace(part, metrics=metrics) for part in found.participants]
    whole = RoundRecord(msgspec.structs.replace(found.round, metrics=metrics), devices)
    axes = drawn(whole)
    assert [panel.get_ylabel() for panel in axes] == panels
    assert all(panel.lines for panel in axes)


@pytest.mark.slow
def test_the_picture_shows_the_turnarounds_of_those_who_replied_in_time() -> None:
    devices, median = drawn(record())[-1].lines
    assert sorted(devices.get_ydata()) == [2.0, 3.0, 4.0]
    assert list(median.get_ydata()) == [3.0]


@pytest.mark.slow
def test_a_model_is_drawn_where_its_number_is_whatever_rounds_only_evaluated() -> None:
    found = record()
    evaluated = RoundRecord(msgspec.structs.replace(found.round, number=9, base=3), found.participants)
    assert set(drawn(evaluated)[0].lines[0].get_xdata()) == {3}


@pytest.mark.slow
def test_the_devices_own_models_are_drawn_at_the_round_that_averaged_them() -> None:
    found = record()
    metrics = {"accuracy": 0.5, "local_accuracy": 0.75}
    trained = RoundRecord(msgspec.structs.replace(found.round, number=4, metrics=metrics), found.participants)
    panel = drawn(trained)[0]
    (own,) = [line for line in panel.lines if "local models" in str(line.get_label())]
    assert (list(own.get_xdata()), list(own.get_ydata())) == ([4], [0.75])


@pytest.mark.slow
def test_a_run_of_which_no_round_closed_has_a_picture() -> None:
    picture = history_picture.draw("run-1", [history.summarize(record(State.ABANDONED), {})], {})
    assert picture.startswith(b"\x89PNG")


@pytest.mark.parametrize("seconds", ["nan", "inf", "-1", "0", "soon"])
def test_a_fault_s_length_that_is_no_time_is_refused(
    seconds: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse(["core", "inject", "broker-cut", f"--seconds={seconds}"])
    assert (
        f"fedgrass core inject: --seconds: '{seconds}' is not a number from 0.01" in capsys.readouterr().err
    )
