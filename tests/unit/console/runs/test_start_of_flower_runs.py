"""``fedgrass run start`` of a Flower app: whence its initial model comes, and with which settings."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from fedgrass.console.runs import fleet_operator, run_start
from fedgrass.federation import weights
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.selection.selection_strategy import Candidate
from fedgrass.federation.settings import RunSettings
from fedgrass.local.flower.flower_initial_model import ServersModel

MODEL: dict[str, Any] = {"z": np.ones(3, np.float32), "a": np.zeros(2, np.float64)}


class Recorder:
    """Stands in for the operator's access to a stack, and for what brings a model."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.names: set[str] = set()
        self.keys: set[str] = set()
        self.servers: ServersModel | None = ServersModel(
            model=weights.encode(MODEL, in_order=True), settings={"lr": 0.5, "momentum": 0.9}
        )
        self.bucket = self

    def runs(self) -> set[str]:
        return self.names

    def devices(self) -> list[Candidate]:
        return [Candidate("d-1", 0, tasks=frozenset({"flower:mean"}))]

    def exists(self, key: str) -> bool:
        return key in self.keys

    def start(self, _name: str, settings: RunSettings, model: bytes) -> SimpleNamespace:
        self.calls.append(("start", settings, model))
        return self.run()

    def act(self, action: str, _name: str, **details: Any) -> SimpleNamespace:
        self.calls.append((action, details))
        return self.run()

    def run(self) -> SimpleNamespace:
        settings = RunSettings(task="flower:mean")
        return SimpleNamespace(
            name="r", state="RUNNING", reason="", waiting_since=0, round=0, history=(), settings=settings
        )

    def rounds(self, _run: object, _first: int = 1) -> list[object]:
        return []

    def servers_model(self, folder: Path) -> ServersModel | None:
        self.calls.append(("server", folder))
        return self.servers

    def ask(self, _operator: object, name: str, settings: RunSettings, _report: object) -> dict[str, Any]:
        self.calls.append(("ask", name, settings.task))
        return MODEL


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    found = Recorder()
    monkeypatch.setattr(fleet_operator, "open_operator", lambda _stack: found)
    monkeypatch.setattr(run_start, "_SERVERS_MODEL", found.servers_model)
    monkeypatch.setattr(run_start, "_ASK_FOR_PARAMETERS", found.ask)
    return found


def start(*settings: str, task: str = "flower:mean", **given: Any) -> None:
    request = {"settings": (f"task={task}", *settings), **given}
    run_start.start("fedgrass", "text", name="r", **request)


def test_the_server_app_brings_the_model_in_its_order_and_its_settings(recorder: Recorder) -> None:
    start('training={"lr": 0.1}', app=Path("app"))
    (_, folder), (_, settings, model) = recorder.calls
    assert folder == Path("app")
    assert list(weights.read_layout(model, len(model)).arrays) == ["z", "a"]
    assert settings.training == {"lr": 0.1, "momentum": 0.9}  # those of the operator count


def test_without_a_model_a_device_is_asked(recorder: Recorder) -> None:
    start()
    assert recorder.calls[0] == ("ask", "r", "flower:mean")
    model = recorder.calls[1][2]
    assert list(weights.read_layout(model, len(model)).arrays) == ["z", "a"]


def test_a_device_is_asked_if_the_server_app_passes_no_model(recorder: Recorder) -> None:
    recorder.servers = None
    start(app=Path("app"))
    assert [call[0] for call in recorder.calls] == ["server", "ask", "start"]


def test_a_task_that_no_device_has_is_refused_before_its_model_is_uploaded(recorder: Recorder) -> None:
    with pytest.raises(SettingsError, match=r"has the task 'flower:maen': .*did you mean 'flower:mean'"):
        start(task="flower:maen", app=Path("app"))
    assert not recorder.calls


def test_a_model_in_the_bucket_and_a_run_that_exists_are_used(
    recorder: Recorder, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder.keys.add("models/r/0.safetensors")
    start()
    assert "from the model that is in the bucket already, models/r/0.safetensors" in capsys.readouterr().err
    recorder.keys.clear()
    recorder.names.add("r")
    start()
    assert [call[0] for call in recorder.calls] == ["start", "start"]
    assert all(set(call[1]) == {"settings"} for call in recorder.calls)


def test_a_model_of_another_run_is_used(recorder: Recorder) -> None:
    start(continue_from="old/3")
    assert recorder.calls[0][1]["continue_from"] == {"run": "old", "round": 3}


def test_a_model_file_keeps_its_order_for_a_flower_app_only(recorder: Recorder, tmp_path: Path) -> None:
    file = tmp_path / "model"
    file.write_bytes(weights.encode({"b": MODEL["z"], "a": MODEL["z"]}, in_order=True))
    start(model=file)
    start(task="marked", model=file)
    orders = [list(weights.read_layout(call[2], len(call[2])).arrays) for call in recorder.calls]
    assert orders == [["b", "a"], ["a", "b"]]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"app": Path("app"), "model": Path("m")}, "--app excludes --model, --frozen and --continue-from"),
        ({"app": Path("app"), "continue_from": "old/1"}, "--app excludes"),
        (
            {"app": Path("app"), "task": "digits"},
            "--app is for tasks flower:NAME, and the run's task is 'digits'",
        ),
        ({"settings": ["task=flower:x", "mode=server_app"]}, "use `fedgrass flower run APP_DIR`"),
    ],
)
def test_what_contradicts_itself_is_refused_by_name(
    recorder: Recorder, given: dict[str, Any], said: str
) -> None:
    with pytest.raises(SettingsError, match=said):
        start(**given)
    assert not recorder.calls


def test_settings_of_a_server_app_that_fit_no_announcement_are_refused(recorder: Recorder) -> None:
    assert recorder.servers is not None
    recorder.servers = msgspec.structs.replace(recorder.servers, settings={"text": "x" * 5000})
    with pytest.raises(SettingsError, match="training"):
        start(app=Path("app"))
