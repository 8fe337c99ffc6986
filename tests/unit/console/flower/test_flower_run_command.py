"""`fedgrass flower run` and `resume` as they are typed: what is started, and what is refused."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr")

from fedgrass.console import main, stack
from fedgrass.console.flower import server_app_run
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.runs import Run, RunState
from fedgrass.federation.settings import RunSettings

PROJECT = """
[project]
name = "My app"
version = "1.0.0"
[tool.flwr.app]
publisher = "me"
[tool.flwr.app.components]
serverapp = "app_of_the_command:app"
clientapp = "app_of_the_command:app"
[tool.flwr.app.config]
rounds = 3
lr = 0.1
text = "plain"
"""


class Started:
    """What a command has asked of the fleet."""

    def __init__(self, *_: object) -> None:
        self.known: dict[str, Run] = {}
        self.settings: RunSettings | None = None
        self.acts: list[str] = []

    def runs(self) -> Mapping[str, RunState]:
        return {name: run.state for name, run in self.known.items()}

    def run(self, name: str) -> Run:
        return self.known[name]

    def act(self, action: str, name: str) -> Run:
        self.acts.append(action)
        return self.known[name]

    def start_server_app(self, name: str, settings: RunSettings) -> Run:
        self.settings = settings
        return run_of(name, settings=settings)


def run_of(name: str, state: RunState = RunState.RUNNING, settings: RunSettings | None = None) -> Run:
    settings = settings or RunSettings(task="flower:my-app", mode="server_app")
    return Run(
        name=name,
        state=state,
        settings=settings,
        started_at=1,
        initial_sha256="",
        initial_bytes=0,
        reason="why",
    )


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Started:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "pyproject.toml").write_text(PROJECT, encoding="utf-8")
    text = "from flwr.serverapp import ServerApp\napp = ServerApp()\n"
    (tmp_path / "app" / "app_of_the_command.py").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "app"))
    found = Started()
    monkeypatch.setattr(server_app_run, "Operator", lambda *_: found)
    monkeypatch.setattr(stack, "outputs", lambda _: {})
    driven: list[Any] = []
    monkeypatch.setattr(server_app_run, "drive", lambda *given, **options: driven.append((given, options)))
    found.driven = driven  # type: ignore[attr-defined]
    return found


def command(*words: str) -> None:
    main.parse(["flower", *words])()


def test_a_run_has_the_settings_and_the_overrides_that_were_given(started: Started) -> None:
    command(
        *("run", "app", "--name", "first", "--run-config", "lr=0.5 text='x y'", "--run-config", "rounds=9"),
        *("where=version >= '1'", "deadline_seconds=60"),
    )
    assert started.settings
    assert started.settings.task == "flower:my-app"
    assert started.settings.mode == "server_app"
    assert started.settings.where == "version >= '1'"
    assert started.settings.deadline_seconds == 60
    assert started.settings.training == {"lr": 0.5, "text": "x y", "rounds": 9}
    ((_, run, project, config, folder), options) = started.driven[0]  # type: ignore[attr-defined]
    assert (run.name, project.name, folder, options) == ("first", "My app", Path("runs/first"), {})
    assert config == {"rounds": 9, "lr": 0.5, "text": "x y"}


def test_a_run_without_a_name_is_called_by_its_app_and_waits_an_hour_for_a_round(started: Started) -> None:
    command("run", "app")
    run = started.driven[0][0][1]  # type: ignore[attr-defined]
    assert run.name.startswith("My-app-")
    assert started.settings
    assert started.settings.deadline_seconds == 3600


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["app", "epochs=3"], "'epochs' is not a setting of a run with a ServerApp"),
        (["app", "rounds=3"], "by --run-config, such as --run-config 'rounds=3'"),
        (["app", "--run-config", "other=1"], "names 'other', which is not in .tool.flwr.app.config."),
        (["app", "--run-config", "lr='0.1"], "cannot be read: No closing quotation"),
        (["app", "--name", "two words"], "'two words' cannot name a run"),
        (["app", "deadline_seconds=1"], "deadline_seconds"),
        (["nothing"], "nothing is not a folder"),
    ],
)
def test_a_mistake_is_named_before_anything_is_started(
    started: Started, words: list[str], reason: str
) -> None:
    with pytest.raises(SettingsError, match=reason):
        command("run", *words)
    assert started.settings is None


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (RunState.RUNNING, "'first' exists: `fedgrass flower resume first` continues it; choose another"),
        (RunState.FAILED, "'first' exists: `fedgrass flower resume first` continues it; choose another"),
        (RunState.SUCCEEDED, "'first' exists and is SUCCEEDED; choose another --name"),
    ],
)
def test_a_name_that_is_taken_is_refused(started: Started, state: RunState, reason: str) -> None:
    started.known["first"] = run_of("first", state)
    with pytest.raises(SettingsError, match=reason):
        command("run", "app", "--name", "first")
    assert started.settings is None


def test_a_server_app_that_cannot_be_imported_starts_no_run(started: Started) -> None:
    Path("app/app_of_the_command.py").write_text("1 / 0", encoding="utf-8")
    import sys  # noqa: PLC0415

    sys.modules.pop("app_of_the_command", None)
    with pytest.raises(
        server_app_run.ServerAppFailed, match=r"cannot be imported: ZeroDivisionError: .* line 1"
    ):
        command("run", "app", "--name", "first")
    assert started.settings is None
    assert "ZeroDivisionError" in Path("runs/first/server_app.log").read_text(encoding="utf-8")


def test_a_name_that_is_taken_is_refused_with_the_way_to_resume_it(started: Started) -> None:
    started.known["first"] = run_of("first")
    with pytest.raises(SettingsError, match="`fedgrass flower resume first` continues it"):
        command("run", "app", "--name", "first")


def test_a_run_is_resumed_with_its_app_and_its_overrides(started: Started) -> None:
    settings = RunSettings(task="flower:my-app", mode="server_app", training={"lr": 0.5})
    command("run", "app", "--name", "first")
    started.known["first"] = run_of("first", RunState.FAILED, settings)
    command("resume", "first")
    (given, options) = started.driven[1]  # type: ignore[attr-defined]
    assert given[3] == {"rounds": 3, "lr": 0.5, "text": "plain"}
    assert options == {"resume": True}
    assert started.acts == ["retry"]
    assert json.loads(Path("runs/first/server_app.json").read_text(encoding="utf-8"))["app"].endswith("/app")


@pytest.mark.parametrize(
    ("run", "words", "reason"),
    [
        (run_of("r"), ["r"], "was not started in this folder: name its app"),
        (run_of("r", RunState.CANCELLED), ["r", "app"], "run 'r' is CANCELLED"),
        (run_of("r", settings=RunSettings(task="digits")), ["r", "app"], "has no ServerApp"),
    ],
)
def test_a_run_that_cannot_be_resumed_is_refused_by_name(
    started: Started, run: Run, words: list[str], reason: str
) -> None:
    started.known["r"] = run
    with pytest.raises(SettingsError, match=reason):
        command("resume", *words)
