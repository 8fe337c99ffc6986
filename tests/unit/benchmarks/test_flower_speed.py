"""The rounds per minute of Flower's simulation: nothing that it does fails the benchmark."""

import shutil
from pathlib import Path

import psutil
import pytest

from benchmarks import simulation
from benchmarks.peers.peer_environments import PeerEnvironment

LIMIT = 20.0  # seconds, far more than the scripts take


def environment(folder: Path, script: str) -> PeerEnvironment:
    """An environment whose Python is a shell script."""
    python = folder / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    return PeerEnvironment(folder, "1.42.0")


def test_the_first_round_is_left_out(tmp_path: Path) -> None:
    peer = environment(tmp_path, "echo '[2.0] of Ray'>&2; echo started; echo '[60.0, 1.0, 3.0]'")
    assert simulation.flower(peer, tmp_path, 2, LIMIT) == 30.0


def test_one_round_more_is_played_than_counted(tmp_path: Path) -> None:
    peer = environment(tmp_path, 'echo "$@" > words; echo "[1.0, 1.0]"'.replace("words", f"{tmp_path}/words"))
    simulation.flower(peer, Path("data"), 7, LIMIT)
    assert (tmp_path / "words").read_text() == "-m benchmarks.peers.flower_simulation data --rounds 8\n"


def test_another_cluster_of_ray_is_not_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")
    peer = environment(tmp_path, 'test -z "$RAY_ADDRESS" && echo "[9.0, 2.0]"')
    assert simulation.flower(peer, tmp_path, 1, LIMIT) == 30.0


def test_a_missing_peer_is_null_with_the_way_to_install_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert simulation.flower(None, Path(), 1, LIMIT) is None
    assert capsys.readouterr().out == "Flower is not installed: make .venv-flower/.installed\n"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 'no memory' >&2; exit 3", "flower_simulation ended with exit code 3: no memory"),
        ("echo '[1.0, 1.0]'; exit 1", "flower_simulation ended with exit code 1: no output"),
        ("echo started", "flower_simulation ended with exit code 0: no output"),
    ],
)
def test_a_peer_that_fails_is_null_with_the_reason(
    tmp_path: Path, script: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert simulation.flower(environment(tmp_path, script), tmp_path, 1, LIMIT) is None
    assert capsys.readouterr().out == f"Flower is not measured: {reason}\n"


def test_a_peer_that_cannot_be_started_is_null(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert simulation.flower(PeerEnvironment(tmp_path / "gone", "1.42.0"), tmp_path, 1, LIMIT) is None
    assert "gone/python cannot be started: No such file" in capsys.readouterr().out


@pytest.mark.slow
def test_a_peer_that_hangs_is_null_and_all_its_processes_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    waits = tmp_path / "waits"
    waits.symlink_to(shutil.which("sleep") or "sleep")
    peer = environment(tmp_path, f"setsid {waits} 600 &\nsleep 600")
    assert simulation.flower(peer, tmp_path, 1, limit=1.0) is None
    assert capsys.readouterr().out == "Flower is not measured: flower_simulation was not done in 1 s\n"
    left = [process.info["cmdline"] for process in psutil.process_iter(["cmdline"])]
    assert [str(waits), "600"] not in left


def test_the_other_figures_are_kept_when_flower_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulation, "lr_mnist", lambda *_: (9.126, 0.88))
    monkeypatch.setattr(simulation, "cnn", lambda *_: 110.0)
    monkeypatch.setattr(simulation, "plain_loop", lambda *_: 48.0)
    assert simulation.measure(tmp_path, 2, 5, environment(tmp_path, "exit 1")) == {
        "lr_mnist_s": 9.13,
        "lr_mnist_accuracy": 0.88,
        "cnn_rounds_per_min": 110.0,
        "plain_loop_rounds_per_min": 48.0,
        "flower_rounds_per_min": None,
    }
