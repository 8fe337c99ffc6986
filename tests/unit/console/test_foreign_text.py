"""Text of devices, and of responses, cannot control the operator's terminal."""

import ast
import io
import json
import re
import subprocess
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedgrass.console import main, tables, terminal
from fedgrass.console.devices import device_views
from fedgrass.console.devices.device_history import PARTS, WorkRecord, WorkTimes
from fedgrass.console.devices.device_records import device_record
from fedgrass.console.devices.device_registration import DeviceRegistration
from fedgrass.console.devices.device_report import Assignment, DeviceReport
from fedgrass.console.devices.device_summary import summarize_devices
from fedgrass.console.runs import dead_letters, fleet_operator, history, operator_actions, run_display
from fedgrass.console.runs.dead_letters import Letter
from fedgrass.console.runs.fleet_operator import RoundRecord
from fedgrass.console.runs.live_view import LiveView
from fedgrass.console.terminal import printable
from fedgrass.federation import messages, topics
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.messages import Completion, RoundChange, Status
from fedgrass.federation.rounds import Participant, Participation, Round, State
from fedgrass.federation.runs import Run, RunState
from fedgrass.federation.selection import Candidate
from fedgrass.federation.settings import RunSettings
from fedgrass.federation.topics import Kind
from greengrass_emulator.command.core_actions import core_commands
from greengrass_emulator.command.terminal_output import Output, print_json, print_line, show_columns
from greengrass_emulator.command.typed_options import call
from greengrass_emulator.control import control_client

PROJECT = Path(__file__).parents[3]
HOSTILE = {
    "markup": "[/red] [bold]x[/] :bomb: [link=http://evil]y[/link]",
    "clear the screen": "\x1b[2J\x1b[H",
    "set the title": "\x1b]0;owned\x07",
    "C1 control": "\x9b2J\x9d0;owned\x9c",
    "bidi override": "safe\u202e\u2066evil\u2069",
    "newline": "done\nfedgrass: all is well\r\noverwritten\rx\x0b\x0c\x85\u2028\u2029",
    "backspace": "ok\x08\x08failed\x7f",
    "zero width": "ad\u200bmin\u200d\ufeff\u2060\u00ad\u180e",
    "invisible letters": "\u3164\u115f\ufe0f\U000e0041\U000e0100",
    "a pile of marks": "z" + "\u0301" * 500,
    "surrogate": "\ud800",
    "private use and unassigned": "\ue000\U0010ffff\u0378",
    "10 kB": "x" * 10_000,
}
each_hostile = pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)


def assert_harmless(output: str, most_lines: int = 20) -> None:
    """Check that an output consists of lines of visible characters."""
    for character in output.replace("\n", ""):
        assert unicodedata.category(character) not in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}, output
    assert "\u3164" not in output
    assert "\ufe0f" not in output
    assert "\u0301" * 3 not in output
    assert len(output.splitlines()) <= most_lines
    assert all(len(line) < 2_100 for line in output.splitlines())


@given(st.text())
def test_whatever_a_text_is_made_of_it_becomes_one_harmless_line(text: str) -> None:
    assert_harmless(printable(text), most_lines=1)


@given(st.text(st.characters(categories=["L", "N", "P", "S"], exclude_characters="\u115f\u1160\u3164\uffa0")))
def test_letters_numbers_and_signs_of_all_scripts_stay_as_they_are(text: str) -> None:
    assert printable(text) == text


def test_a_long_text_is_cut_with_its_length() -> None:
    assert printable("x" * 10_000, 5) == "xxxxx... (10,000 characters)"


class Fleet:
    """An operator whose fleet returns ``text`` for every text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.state = Run(
            name="run-1",
            settings=RunSettings(task="digits"),
            started_at=1,
            state=RunState.FAILED,
            reason=text,
            initial_sha256="0" * 64,
            initial_bytes=1,
        )

    def devices(self) -> list[Candidate]:
        attributes = {"state": self.text, "version": self.text, "configuration_error": self.text}
        attributes |= {self.text: self.text}
        return [Candidate(self.text, 0, frozenset({self.text}), 1, attributes)]

    def runs(self) -> dict[str, str]:
        return {self.text: self.text}

    def act(self, *_: object) -> Run:
        return self.state

    def run(self, _: str) -> Run:
        return self.state

    def every_run(self, _: object) -> list[Run]:
        return [self.state]

    def repair(self, *_: object, **__: object) -> list[str]:
        return [self.text]

    def rounds_alone(self, run: Run, _: int = 1) -> Iterator[Round]:
        return (record.round for record in self.rounds(run))

    def rounds(self, _: Run, _first: int = 1) -> Iterator[RoundRecord]:
        lost = Participant(device=self.text, state=Participation.FAILED, reason=self.text, announced_at=1)
        times: dict[str, Any] = {"opened_at": 1, "deadline_at": 9, "needed": 1, "minimum": 1}
        named: dict[str, Any] = {"run": "run-1", "number": 1, "attempt": 1, "asked": 1, "failed": 1}
        base: dict[str, Any] = {"base_sha256": "0" * 64, "base_bytes": 1}
        yield RoundRecord(Round(state=State.ABANDONED, reason=self.text, **named, **base, **times), [lost])


STACK = "fedgrass"
OPERATORS: dict[str, Callable[[], None]] = {
    "list": lambda: run_display.list_runs(STACK, "text", state="", task=""),
    "show": lambda: run_display.show_named_run(STACK, "run-1", "text", last=0),
    "pause": lambda: operator_actions.act(STACK, "pause", "run-1", "text"),
    "repair": lambda: operator_actions.repair(STACK, "run-1", "text", dry_run=False),
}


@each_hostile
@pytest.mark.parametrize("command", OPERATORS)
def test_no_command_of_a_run_hands_on_what_a_device_wrote(
    command: str, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fleet_operator, "open_operator", lambda _: Fleet(text))
    OPERATORS[command]()
    assert_harmless(capsys.readouterr().out)


@each_hostile
def test_the_lines_of_devices_hand_on_nothing_of_it(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    device = Fleet(text).devices()[0]
    found = summarize_devices([device], 1, 0, 300)
    times = {f"{name}_seconds": 1.0 for name in ("turnaround", "other", *PARTS)}
    work = WorkRecord(
        run=text, round=1, attempt=1, outcome="failed", received_at=1, reason=text, counted=text,
        counted_reason=text, times=WorkTimes(**times, examples=1),
    )  # fmt: skip
    registration = DeviceRegistration(
        registered=True, thing_type=text, thing_attributes={text: text}, thing_groups=[text], errors=[text]
    )
    assignment = Assignment(
        run=text, round=1, attempt=1, round_state="OPEN", state="ASKED", announced_at=1, reason=text
    )
    report = DeviceReport(
        device=text, heartbeat=found.devices[0], assignments=[assignment], rounds=[work], speed=None,
        registration=registration, errors=[text],
    )  # fmt: skip
    for line in [
        *device_views.summary_lines(found),
        *device_views.report_lines(report, 1),
        *device_views.reason_lines([work], 1),
    ]:
        terminal.say(line)
    for run, rounds in device_views.work_tables([work], 1):
        terminal.say(run)
        tables.show(rounds)
    assert_harmless(capsys.readouterr().out, most_lines=30)


@each_hostile
@pytest.mark.parametrize("terminal_width", [None, 80])
def test_the_live_view_hands_on_nothing_of_it(text: str, terminal_width: int | None) -> None:
    console = tables.console(record=True, width=terminal_width or 80, force_terminal=False)
    live = LiveView(console, "run-1", 3)
    work: dict[str, Any] = {"run": "run-1", "round": 1, "attempt": 1}
    reason = text.encode(errors="replace").decode()[:500]
    of_thing = topics.of_device("fedgrass", "thing-1", Kind.STATUS)
    live.receive(of_thing, messages.encode(Status(**work, state="failed", reason=reason)))
    done = Completion(
        **work, round_id="run-1/1/1", announced_at=1, bytes=1, checksum="0" * 32, examples=3,
        metrics={"accuracy": 1.0},
    )  # fmt: skip
    live.receive(topics.of_device("fedgrass", "thing-2", Kind.COMPLETE), messages.encode(done))
    change = RoundChange(run="run-1", round=1, attempt=1, state="OPEN", text=reason, device=reason[:50])
    live.receive(topics.of_run("fedgrass", "run-1"), messages.encode(change))
    live.receive(of_thing, reason.encode())
    live.round_closed(1, reason)
    console.print(live._render())
    assert_harmless(console.export_text(), most_lines=60)


@each_hostile
def test_an_error_is_one_harmless_line(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise SettingsError(text)

    monkeypatch.setattr(main, "run", refuse)
    with pytest.raises(SystemExit) as ended:
        main.command()
    assert_harmless(str(ended.value.code), most_lines=1)
    assert ended.value.code


@each_hostile
def test_a_dead_letter_is_one_harmless_line(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = json.dumps({"ruleName": text, "topic": text, "failures": [{"errorMessage": text}]})
    letters = [
        Letter("receipt", body, "", 1) for body in (text, json.dumps({"a": text}), failed, json.dumps([text]))
    ]
    monkeypatch.setattr(dead_letters, "_dead_letters", lambda _: Letters(letters))
    dead_letters.show_command(stack_name="s", output="text")
    assert_harmless(capsys.readouterr().out)


class Letters:
    def __init__(self, letters: list[Any]) -> None:
        self._letters = letters

    def show(self) -> list[Any]:
        return self._letters


@each_hostile
def test_the_picture_of_a_table_on_a_terminal_has_only_our_own_colours(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tables.console(force_terminal=True, width=80).print(
        device_views.device_table([device_record(one, 0) for one in Fleet(text).devices()], 0),
        text,
        history.table([]),
    )
    shown = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert_harmless(shown, most_lines=80)


PRINTERS = {"print", "input", "breakpoint"}


def calls_around_the_terminal(source: str) -> list[str]:
    """Return the places of a module that print without ``fedgrass.console.terminal``."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
            # Imports that only draw (bars, layout) have no text.
            drawing = isinstance(node, ast.ImportFrom) and not {"Text", "Console"} & {
                a.name for a in node.names
            }
            if any(name.partition(".")[0] == "rich" for name in names) and not drawing:
                found.append(f"{node.lineno}: imports {', '.join(names)}")
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called in PRINTERS or re.search(r"\b(stdout|stderr)\.write|Console$|Text\.from_markup$", called):
            found.append(f"{node.lineno}: {called}()")
        if called in {"sys.exit", "SystemExit", "exit"} and node.args and _is_text(node.args[0]):
            found.append(f"{node.lineno}: {called}() with a text")
        if called == "TextColumn" and not any(key.arg == "markup" for key in node.keywords):
            found.append(f"{node.lineno}: a TextColumn reads markup")
    return found


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


# The modules that all others print by: they make every text printable.
PRINTING = {
    "fedgrass/console/terminal.py",
    "fedgrass/console/tables.py",
    "greengrass_emulator/command/terminal_output.py",
}
# They import Console as the type of a parameter, and construct none.
TYPES_ONLY = {
    "fedgrass/console/topic_feed/topic_watch.py",
    "greengrass_emulator/command/plain_help.py",
    "fedgrass/console/flower/server_app_run.py",
    "fedgrass/console/redrawn_view.py",
    "fedgrass/console/runs/live_view.py",
    "fedgrass/console/task_messages/exchange_view.py",
    "fedgrass/local/demo.py",
    "fedgrass/local/flower/server_app_demo.py",
    "fedgrass/simulation/grids/grid_progress.py",
    "fedgrass/simulation/simulation_progress.py",
}


@pytest.mark.parametrize(
    "path",
    [
        path
        for folder in ("fedgrass", "greengrass_emulator")
        for path in sorted((PROJECT / folder).rglob("*.py"))
    ],
    ids=lambda path: str(path.relative_to(PROJECT)),
)
def test_nothing_is_printed_around_the_terminal_module(path: Path) -> None:
    name = str(path.relative_to(PROJECT))
    if name in PRINTING:
        return
    found = calls_around_the_terminal(path.read_text(encoding="utf-8"))
    if name in TYPES_ONLY:
        found = [line for line in found if "imports rich" not in line]
    assert not found, f"{name}: print foreign text by fedgrass.console.terminal or tables"


@pytest.mark.parametrize(
    "source",
    [
        "print(reason)",
        "sys.stdout.write(reason)",
        "from rich.console import Console",
        "import rich",
        "from rich.text import Text",
        "sys.exit(f'fedgrass: {error}')",
        "rich.console.Console().print(x)",
        "TextColumn('run {x}')",
    ],
)
def test_the_guard_finds_what_goes_around(source: str) -> None:
    assert calls_around_the_terminal(source)


def test_a_pipe_gets_plain_rows_that_nothing_folds(capsys: pytest.CaptureFixture[str]) -> None:
    url = "https://example.com/" + "a" * 200
    tables.show(tables.table("name", "url", rows=[("a", url), ("b", "short")]))
    assert capsys.readouterr().out.splitlines() == ["name url", f"a    {url}", "b    short"]


NAME = "press-" + "0123456789" * 6


@pytest.mark.parametrize("width", [80, 60, 132])
@pytest.mark.parametrize("kind", ["devices", "runs", "history", "faults", "costs"])
def test_no_table_is_wider_than_the_terminal_or_cuts_a_value_off(kind: str, width: int) -> None:
    attributes = {"state": "training", "version": "0.1.0+with-a-long-suffix"}
    devices = [Candidate(NAME, 0, frozenset({"digits", "air_quality", "cracks"}), 10**9, attributes)]
    summaries = [
        history.summarize(record, {1: {"accuracy": 0.98765, "loss": 12345.678}})
        for record in Fleet(NAME).rounds(Fleet(NAME).state)
    ]
    shown_tables = {
        "devices": (
            device_views.device_table([device_record(one, 0) for one in devices], 10**9),
            [NAME, "air_quality", "1000000000", "0.1.0+with-a-long-suffix"],
        ),
        "runs": (tables.table("run", "state", rows=[(NAME, "SUCCEEDED")]), [NAME, "SUCCEEDED"]),
        "history": (history.table(summaries), ["abandoned", "0.00"]),
        "faults": (
            tables.table(
                "fault", "amount", "what happens", rows=[("broker-cut", "seconds (30)", "words " * 30)]
            ),
            ["broker-cut", "seconds (30)"],
        ),
        "costs": (tables.table("a", "b", rows=[("egress", "1,234,567")]), ["egress", "1,234,567"]),
    }
    made, values = shown_tables[kind]
    output = io.StringIO()
    tables.console(file=output, width=width).print(made)
    shown = output.getvalue()
    assert all(len(line) <= width for line in shown.splitlines())
    assert "\u2026" not in shown
    # A narrow column folds a value over several lines, with all of its characters.
    assert Counter("".join(values)) - Counter(" ") <= Counter(shown)


def test_a_line_is_never_wrapped(capsys: pytest.CaptureFixture[str]) -> None:
    url = "https://example.com/" + "a" * 300
    terminal.say(url)
    assert capsys.readouterr().out == url + "\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_of_any_encoding_shows_what_it_can(encoding: str) -> None:
    code = (
        "from fedgrass.console import terminal;"
        "terminal.accept_all_characters(); terminal.say('caf\\u00e9 \\u6f22')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONIOENCODING": encoding, "PYTHONPATH": str(PROJECT)},
        capture_output=True, check=True,
    )  # fmt: skip
    assert done.stdout.decode(encoding).startswith("caf")


def test_a_reader_that_goes_away_ends_a_command_without_a_traceback() -> None:
    code = (
        "import sys; from fedgrass.console import main, terminal\n"
        "def run(_):\n"
        "    for number in range(100_000): terminal.say('line ' * 20)\n"
        "main.run = run\n"
        "main.command()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=PROJECT
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 1


OUTPUTS = {
    "fedgrass": Output(terminal.say, show_columns, terminal.say_json),
    "own": Output(print_line, show_columns, print_json),
}


@pytest.mark.parametrize("output", OUTPUTS.values(), ids=OUTPUTS)
@each_hostile
def test_a_core_s_list_is_harmless(
    text: str, output: Output, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(control_client, "running_cores", lambda: ([core_of(text)], [text]))
    call(core_commands("core", "", output), ["list"])
    assert_harmless(capsys.readouterr().out)
    call(core_commands("core", "", output), ["list", "--output", "json"])
    printed = capsys.readouterr().out
    assert printed.replace("\n", "").isprintable()
    assert printed.isascii()
    assert json.loads(printed)["cores"][0]["thing"] == text


def core_of(text: str) -> Any:
    component = SimpleNamespace(name=text, version=text, state=text)
    return SimpleNamespace(
        thing=text, profile=text, pid=1, root=text, components=[component], faults={text: None}
    )
