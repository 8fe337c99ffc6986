"""``fedgrass task check`` and ``weights`` of tasks that end, or crash, the process in which they run."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TASK = """
import os, signal, sys, time
import numpy as np
from components.trainer.tasks.task import Evaluation, Fit

class Stop(BaseException):
    pass

class Own:
    def __init__(self, where="", what="pass"):
        self.where, self.what = where, what
        self.act("init")
    def act(self, where):
        if where == self.where:
            exec(self.what)
    def examples(self):
        return 10
    def initial_weights(self, seed):
        self.act("weights")
        return {"w": np.ones(3, np.float32)}
    def evaluate(self, weights):
        self.act("evaluate")
        return Evaluation(5, {"loss": float(weights["w"].sum())})
    def fit(self, weights, settings, report, stop):
        self.act("fit")
        return Fit({"w": weights["w"] / np.float32(2)}, 10, partial=stop())
"""


def command(folder: Path, action: str, *options: str) -> list[str]:
    (folder / "own.py").write_text(TASK)
    return [sys.executable, "-m", "fedgrass.console.main", "task", action, "own:Own", *options]


def run(folder: Path, action: str, where: str = "", what: str = "pass") -> subprocess.CompletedProcess[str]:
    options = ["--option", f"where={where}", "--option", f"what={what}"]
    if action == "weights":
        options += ["--out", "0.safetensors"]
    words = command(folder, action, *options)
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=100, check=False)
    assert "Traceback" not in done.stdout + done.stderr
    return done


def test_a_sound_task_is_checked_in_the_child_with_its_exit_code(tmp_path: Path) -> None:
    done = run(tmp_path, "check")
    assert (done.returncode, done.stderr) == (0, "")
    assert "ok    training: the loss fell" in done.stdout
    assert run(tmp_path, "weights").returncode == 0
    assert (tmp_path / "0.safetensors").exists()
    assert "exists already" in run(tmp_path, "weights").stderr


def test_a_file_in_the_current_folder_hides_no_library_from_the_child(tmp_path: Path) -> None:
    (tmp_path / "random.py").write_text("raise RuntimeError('not this one')\n")
    (tmp_path / "subprocess.py").write_text("raise RuntimeError('not this one')\n")
    words = command(tmp_path, "check", "--path", str(tmp_path))
    boot = "import sys; sys.path = [path for path in sys.path if path];"
    boot += " from fedgrass.console.main import command; command()"
    words = [sys.executable, "-c", boot, *words[3:]]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("where", "step"),
    [("init", "loading"), ("weights", "weights"), ("evaluate", "evaluation"), ("fit", "training")],
)
@pytest.mark.parametrize("code", [0, 3])
def test_a_task_that_ends_its_process_is_reported_with_the_step(
    tmp_path: Path, where: str, step: str, code: int
) -> None:
    done = run(tmp_path, "check", where, f"os._exit({code})")
    assert done.returncode == 1
    last = done.stdout.splitlines()[-1]
    assert last.startswith(f"FAIL  {step}: the task ended its process with exit code {code}, by os._exit")


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (
            "os.kill(os.getpid(), signal.SIGKILL)",
            "was killed by SIGKILL: the system may have run out of memory",
        ),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "was killed by SIGSEGV: a library crashed"),
    ],
)
def test_a_task_whose_process_is_killed_is_reported(tmp_path: Path, what: str, words: str) -> None:
    done = run(tmp_path, "check", "fit", what)
    assert done.returncode == 1
    assert f"FAIL  training: the task {words}" in done.stdout


@pytest.mark.parametrize(
    "what", ["raise Stop('odd')", "raise KeyboardInterrupt", "sys.exit(0)", "raise GeneratorExit"]
)
@pytest.mark.parametrize("where", ["init", "evaluate"])
def test_a_task_that_raises_what_is_no_exception_fails_its_check_with_the_place(
    tmp_path: Path, where: str, what: str
) -> None:
    done = run(tmp_path, "check", where, what)
    assert done.returncode == (2 if where == "init" else 1)
    said = done.stdout.splitlines()[-1]
    assert "own.py:" in said
    assert any(name in said for name in ("Stop: odd", "KeyboardInterrupt", "SystemExit: 0", "GeneratorExit"))


@pytest.mark.parametrize(
    ("where", "what", "words"),
    [
        ("weights", "os._exit(0)", "FAIL  weights: the task ended its process with exit code 0"),
        ("weights", "raise Stop('odd')", "own.py:"),
        ("init", "sys.exit(0)", "own.py:"),
    ],
)
def test_an_initial_model_that_cannot_be_drawn_is_reported(
    tmp_path: Path, where: str, what: str, words: str
) -> None:
    done = run(tmp_path, "weights", where, what)
    assert done.returncode == 1
    assert words in done.stdout + done.stderr
    assert not (tmp_path / "0.safetensors").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_check_that_is_interrupted_ends_with_its_child(tmp_path: Path, number: signal.Signals) -> None:
    pid = tmp_path / "pid"
    what = f"open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    words = command(tmp_path, "check", "--option", "where=fit", "--option", f"what={what}")
    with subprocess.Popen(
        words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as check:
        until = time.monotonic() + 60
        while not (pid.exists() and pid.read_text()) and time.monotonic() < until:
            time.sleep(0.05)
        check.send_signal(number)
        output, _ = check.communicate(timeout=60)
    assert check.returncode == 130, output
    assert "Traceback" not in output
    assert not Path(f"/proc/{pid.read_text()}").exists()
