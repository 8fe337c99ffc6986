"""The install step, run as the nucleus runs it: in the work folder, again and again."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from components.trainer import install

SCRIPT = Path(install.__file__)


def run(folder: Path, python: str, script: Path = SCRIPT) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(script), "--python", python],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def test_an_interpreter_that_has_everything_is_taken(tmp_path: Path) -> None:
    for _ in range(2):
        assert run(tmp_path, sys.executable).returncode == 0
        assert (tmp_path / "interpreter").read_text() == f"{sys.executable}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["interpreter"]


@pytest.mark.parametrize("python", ["python3", "/no/such/python", "/etc"])
def test_what_is_no_interpreter_is_refused_by_name(tmp_path: Path, python: str) -> None:
    done = run(tmp_path, python)
    assert done.returncode == 1
    assert done.stderr.startswith(f"the configuration's python is '{python}'; it has to be")
    assert not (tmp_path / "interpreter").exists()


def test_an_environment_is_made_once_and_found_again(tmp_path: Path) -> None:
    copy = tmp_path / "install.py"
    copy.write_bytes(SCRIPT.read_bytes())
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("# nothing, so that this test needs no network\n")
    work = tmp_path / "work"
    work.mkdir()
    assert run(work, "", copy).returncode == 0
    python = work / "venv" / "bin" / "python"
    assert (work / "interpreter").read_text() == f"{python}\n"
    marker = work / "venv" / "requirements.sha256"
    assert marker.read_text() == hashlib.sha256(requirements.read_bytes()).hexdigest()
    made = marker.stat().st_mtime_ns
    assert run(work, "", copy).returncode == 0
    assert marker.stat().st_mtime_ns == made
    requirements.write_text("# changed\n")
    assert run(work, "", copy).returncode == 0
    assert marker.stat().st_mtime_ns != made
    missing = run(work, str(python), copy)
    assert missing.returncode == 1
    assert "it does not have: awsiot, boto3" in missing.stderr
    assert "cannot run the trainer" in missing.stderr
    assert "Traceback" not in missing.stderr


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What would be run, and is not: this test needs no network."""
    ran: list[list[str]] = []

    def note(command: list[str], _seconds: float, _failure: str) -> None:
        ran.append(command)
        install.ENVIRONMENT.mkdir(exist_ok=True)
        if "--index-url" in command and "unreachable" in (tmp_path / "network").read_text():
            message = "PyTorch's own index has none"
            raise install.InstallError(message)

    (tmp_path / "network").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(install, "_run", note)
    return ran


def test_pytorch_comes_without_its_parts_for_gpus_unless_they_are_asked_for(
    commands: list[list[str]],
) -> None:
    install.environment()
    making, torch, others = commands
    assert making[1:3] == ["-m", "venv"]
    assert torch[-6:-1] == ["--index-url", install.CPU_INDEX, "--no-deps", "--retries", "1"]
    assert torch[-1].startswith("torch==")
    assert others[-2] == "-r"
    assert "--index-url" not in others
    commands.clear()
    install.environment("gpu")
    # pip takes one kind for as good as the other: the environment is made anew.
    assert "--clear" in commands[0]
    assert len(commands) == 2


def test_where_pytorchs_own_index_is_not_reached_pips_own_is_asked(
    commands: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "network").write_text("unreachable")
    install.environment()
    assert commands[-1][-2] == "-r"
    assert "which may be 2 GB larger" in capsys.readouterr().err
