"""``fedgrass simulate``: its options, its files, and the refusals of options that cannot be used."""

import errno
import json
import os
import signal
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest

from fedgrass.console import main
from fedgrass.console.runs import history
from fedgrass.federation.errors import SettingsError
from fedgrass.simulation import clients, simulate_action, simulation_files
from fedgrass.simulation.clients.client_trainer import ClientTrainer
from fedgrass.simulation.simulation_spec import SimulationSpec
from tests.fakes.numpy_clients import NumpyClients


@pytest.fixture(autouse=True)
def no_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no pictures, which takes seconds, except where a test is about the files."""
    if "with_pictures" not in request.fixturenames:
        monkeypatch.setattr(simulation_files, "write_report", lambda *_, **__: None)
        monkeypatch.setattr(history, "_draw", lambda *_: b"PNG")
        monkeypatch.setattr(simulate_action, "write_fleet_picture", lambda *_: None)


@pytest.fixture
def with_pictures() -> None:
    """All files are written as they are."""


@pytest.fixture(autouse=True)
def numpy_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    def open_clients(spec: SimulationSpec, *_: object) -> ClientTrainer:
        if spec.devices > 1000:
            message = "more devices than data"
            raise SettingsError(message)
        return NumpyClients()

    monkeypatch.setattr(clients, "open_clients", open_clients, raising=False)


def simulate(*words: str) -> int:
    """Run the command and return its exit code."""
    with pytest.raises(SystemExit) as ended:
        main.run(["simulate", *words])
    return int(ended.value.code or 0)


@pytest.mark.usefixtures("with_pictures")
def test_the_files_are_those_of_a_real_run_and_say_that_it_was_a_simulation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert simulate("--devices", "8", "--rounds", "2", "--out", str(tmp_path)) == 0
    folder = tmp_path / "digits-simulated-0"
    assert {file.name for file in folder.iterdir()} == {
        "accuracy.png",
        "fleet.png",
        "history.json",
        "model.safetensors",
        "report",
        "report.html",
        "simulation.json",
    }
    made = json.loads((folder / "history.json").read_text())
    assert (made["name"], made["state"]) == ("digits-simulated-0", "SUCCEEDED")
    assert len(made["rounds"][0]["devices"]) == 8
    assert "This run was a simulation:</strong> 8 virtual devices" in (folder / "report.html").read_text()
    assert "have expired" not in (folder / "report.html").read_text()
    printed = capsys.readouterr().out
    assert "8 virtual devices: training takes 1.06 s (median)" in printed
    assert "a simulation of 8 devices: 3 rounds in" in printed
    assert "on AWS it would have cost $" in printed


def test_a_simulation_can_be_repeated_from_its_file(tmp_path: Path) -> None:
    words = ("--devices", "8", "--rounds", "2", "--seed", "4", "--setting", "selection=random")
    simulate(*words, "--setting", "count=3", "--out", str(tmp_path))
    folder = tmp_path / "digits-simulated-4"
    made = json.loads((folder / "simulation.json").read_text())
    spec = msgspec.convert(made["spec"], SimulationSpec)
    assert (spec.devices, spec.settings) == (8, {"rounds": 2, "selection": "random", "count": 3})
    assert made["cost"]["dollars"] > 0
    assert made["virtual_seconds"] > 0
    simulate(*words, "--setting", "count=3", "--out", str(tmp_path), "--workers", "3")
    again = tmp_path / "digits-simulated-4-2"
    for name in ("history.json", "model.safetensors"):
        assert (folder / name).read_bytes() == (again / name).read_bytes()


def test_the_output_for_programs_is_one_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate("--devices", "8", "--rounds", "1", "--out", str(tmp_path), "--output", "json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["state"], printed["devices"]) == ("SUCCEEDED", 8)
    assert printed["folder"] == str(tmp_path / "digits-simulated-0")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--setting", "agregation=fedadam"], "there is no setting 'agregation': did you mean aggregation?"),
        (["--setting", "rounds=3"], "--setting rounds is not allowed: use --rounds instead"),
        (["--setting", "rounds"], "'rounds' is not a setting; it takes setting=value"),
        (["--setting", "count=200", "--setting", "selection=random", "--setting", "threshold_count=150"],
         "the run's threshold_count is 150, but a round would ask 100"),
        (["--setting", 'held_out=["device-9"]'], "held_out names 'device-9'"),
        (["--devices", "2000"], "more devices than data"),
        (["--fleet", "missing.toml"], "--fleet missing.toml cannot be read: No such file or directory"),
        (["--trace", "missing.csv"], "missing.csv"),
        (["--like-fleet", "--trace", "a.csv"], "--like-fleet and --trace both describe the devices"),
        (["--strategy", "missing.py"], "missing.py cannot be read"),
        (["--setting", "mode=server_app"], "mode=server_app cannot be simulated"),
        (["--seeds", "5"], "--seeds 5 needs --grid"),
        (["--executor", "ray"], "--executor ray needs --grid"),
        (["--stack", "factory"], "--stack factory needs --like-fleet"),
        (["--grid", "g.toml", "--fleet-out", "f.csv"], "--fleet-out only writes the fleet, and --grid"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_used_are_refused_in_one_line(
    words: list[str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert simulate(*words, "--out", str(tmp_path / "runs")) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("fedgrass simulate: ")
    assert reason in printed
    assert printed.count("\n") == 1
    assert list(tmp_path.rglob("*.json")) == []


def test_out_that_is_a_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert simulate("--out", str(tmp_path / "file")) == 2
    assert "file cannot be written to: Not a directory; choose another folder" in capsys.readouterr().err


def test_a_full_disk_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, _content: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(simulation_files, "write_atomically", full)
    assert simulate("--devices", "3", "--rounds", "1", "--out", str(tmp_path)) == 2
    assert "simulation.json cannot be written: No space left on device" in capsys.readouterr().err


def test_a_run_that_fails_ends_with_1_and_the_reasons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing = NumpyClients(failing=["device-00000", "device-00001", "device-00002"])
    monkeypatch.setattr(clients, "open_clients", lambda *_: failing)
    names = [f"device-{number:05}" for number in range(10)]
    failing._failing = frozenset(names)
    assert simulate("--devices", "3", "--rounds", "2", "--out", str(tmp_path)) == 1
    printed = capsys.readouterr().out
    assert "failed: ValueError: no data" in printed
    assert "the run is FAILED" in printed


def test_ctrl_c_ends_a_simulation_with_what_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupted(NumpyClients):
        def evaluate(self, weights: Any, **_of_model: int) -> Any:
            self.evaluated = getattr(self, "evaluated", 0) + 1
            if self.evaluated == 3:
                os.kill(os.getpid(), signal.SIGINT)
            return super().evaluate(weights)

    monkeypatch.setattr(clients, "open_clients", lambda *_: Interrupted())
    before = signal.getsignal(signal.SIGINT)
    assert simulate("--devices", "3", "--rounds", "100", "--out", str(tmp_path)) == 130
    assert signal.getsignal(signal.SIGINT) is before
    made = json.loads((tmp_path / "digits-simulated-0" / "history.json").read_text())
    assert [round_["state"] for round_ in made["rounds"]][:2] == ["CLOSED", "CLOSED"]
    printed = capsys.readouterr().out
    assert "the simulation was stopped before the run had ended" in printed
    assert "RUNNING" not in printed


def test_a_custom_strategy_averages_a_simulated_run(tmp_path: Path) -> None:
    strategy = tmp_path / "halving.py"
    strategy.write_text(
        "from fedgrass.federation.aggregation import Strategy\n\n"
        "class Halving(Strategy):\n"
        "    '''Weighs all devices alike.'''\n\n"
        "    def weight(self, update):\n"
        "        return 1.0\n"
    )
    words = ("--strategy", str(strategy), "--setting", "aggregation=halving:Halving")
    assert simulate("--devices", "3", "--rounds", "1", *words, "--out", str(tmp_path / "runs")) == 0


def test_a_fleet_can_be_written_instead_of_simulated(tmp_path: Path) -> None:
    source, target = tmp_path / "trace.csv", tmp_path / "fleet.toml"
    source.write_text("name,fixed_seconds\nbox-1,5\nbox-2,7\n")
    assert simulate("--trace", str(source), "--fleet-out", str(target), "--out", str(tmp_path / "runs")) == 0
    assert "fixed_seconds" in target.read_text()
    assert not (tmp_path / "runs").exists()


def test_a_trace_says_how_many_devices_there_are(tmp_path: Path) -> None:
    source = tmp_path / "trace.csv"
    source.write_text("name,fixed_seconds\nbox-1,5\nbox-2,7\n")
    assert simulate("--trace", str(source), "--rounds", "1", "--out", str(tmp_path)) == 0
    made = json.loads((tmp_path / "digits-simulated-0" / "history.json").read_text())
    assert [each["device"] for each in made["rounds"][0]["devices"]] == ["box-1", "box-2"]


def test_the_models_of_some_rounds_only_can_be_measured(tmp_path: Path) -> None:
    words = ("--devices", "3", "--rounds", "5", "--held-out-every", "2", "--out", str(tmp_path))
    assert simulate(*words) == 0
    made = json.loads((tmp_path / "digits-simulated-0" / "history.json").read_text())
    measured = [each["round"] for each in made["rounds"] if each["held_out"]]
    assert measured == [2, 4, 5]


def test_a_grid_is_run_by_its_own_action(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[object, ...]] = []
    action = ModuleType("grid_action")

    def run_grid(path: Path, base: SimulationSpec, **options: object) -> int:
        calls.append((path, base.settings, options))
        return 1

    action.run_grid = run_grid  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fedgrass.simulation.grids.grid_action", action)
    monkeypatch.setattr("fedgrass.simulation.grids.grid_action", action, raising=False)
    words = ("--grid", "g.toml", "--seeds", "5", "--workers", "2", "--out", str(tmp_path))
    assert simulate(*words, "--rounds", "2") == 1
    options = {"seeds": 5, "executor": "processes", "workers": 2, "out": tmp_path, "output": "text"}
    assert calls == [(Path("g.toml"), {"rounds": 2}, options)]
