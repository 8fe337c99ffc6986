"""``fedgrass core`` offers the emulator's actions, and prints as all of fedgrass's commands do."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import package
from tests.emulator.local_core import recipe, write_recipe


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fedgrass.console.main", "core", *words],
        cwd=folder,
        env={**os.environ, "XDG_RUNTIME_DIR": str(folder), "PYTHONPATH": str(package.ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def folder(runtime: Path) -> Path:
    return runtime


def test_it_has_the_same_actions_as_the_emulator_s_own_program(folder: Path) -> None:
    own = subprocess.run(
        [sys.executable, "-m", "greengrass_emulator", "--help"],
        cwd=package.ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    listed = own.stdout[own.stdout.index("Commands:") :]
    actions = [line.split()[0] for line in listed.splitlines() if line.startswith("  ") and "--" not in line]
    assert {"run", "list", "publish", "deploy", "inject", "stop", "configure"} == set(actions)
    said = run(folder, "--help").stdout
    assert all(f"\n  {action} " in said for action in actions)


@pytest.mark.parametrize(("script", "code"), [("echo {configuration:/word}", 0), ("exit 1", 1)])
def test_a_component_runs_to_its_end(folder: Path, script: str, code: int) -> None:
    file = write_recipe(folder, recipe(script, configuration={"word": "none"}))
    ended = run(folder, "run", "--recipe", str(file), "--config", json.dumps({"word": "hello"}), "--once")
    assert ended.returncode == code, ended.stderr
    assert ("com.example.Probe | hello" in ended.stdout) == (code == 0)


def test_the_faults_are_a_table(folder: Path) -> None:
    listed = run(folder, "inject").stdout
    assert listed.split("\n", maxsplit=1)[0].split() == ["fault", "amount", "what", "happens"]
    assert "\nbroker-cut " in listed


def test_an_error_of_the_emulator_is_one_line_that_begins_with_the_program_s_name(folder: Path) -> None:
    ended = run(folder, "stop")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "fedgrass: no core is running here: start one with the action `run`\n"
