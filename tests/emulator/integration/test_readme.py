"""Every command of the emulator's README runs, in its order, and prints the output that the README shows.

In the expected output ``...`` within a line stands for any text, and a line ``...`` for any lines.
"""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from greengrass_emulator import __main__
from tests.emulator.local_core import eventually

PROJECT = Path(__file__).parents[3]
README = (PROJECT / "greengrass_emulator" / "README.md").read_text()
LITE_TESTS = (PROJECT / "tests/emulator/contracts/test_local_core_lite.py").read_text()
SECONDS = 60
# They observe another process: their output is polled.
OBSERVING = ("tail ", "greengrass-emulator list")


@dataclass(frozen=True)
class Step:
    """A command of the README with its output."""

    command: str
    output: str


def steps() -> list[Step]:
    """Return the commands of all console blocks, in order."""
    blocks = re.findall(r"^```console\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    found = []
    for block in blocks:
        assert block.startswith("$ ")
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            found.append(Step(command, output))
    return found


def matches(expected: str, output: str) -> bool:
    """Return whether an output is that of the README; each ``...`` stands for anything."""
    pattern = ""
    for line in expected.splitlines():
        if line == "...":
            pattern += r"(?:[^\n]*\n)*?"
        else:
            pattern += re.escape(line).replace(r"\.\.\.", "[^\n]*") + "\n"
    return re.match(pattern, output) is not None


class Terminal:
    """A shell in a folder with the checkout's docs, where the program is on the path."""

    def __init__(self, folder: Path, runtime: Path) -> None:
        programs = folder / "bin"
        programs.mkdir()
        program = programs / __main__.PROGRAM
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m greengrass_emulator "$@"\n')
        program.chmod(0o755)
        (folder / "docs").symlink_to(PROJECT / "docs")
        self.folder = folder
        self.output = folder / "output.txt"
        own = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
        path = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.environment = {
            **own, "PATH": path, "PYTHONPATH": str(PROJECT), "XDG_RUNTIME_DIR": str(runtime)
        }  # fmt: skip

    def run(self, step: Step) -> None:
        """Run a command to its end, and compare its output."""

        def attempt() -> bool:
            ended = subprocess.run(  # noqa: S602 - the README's own commands
                step.command,
                shell=True,
                cwd=PROJECT if "pytest" in step.command else self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=SECONDS,
                check=False,
            )
            said.append(ended.stdout + ended.stderr)
            return ended.returncode == 0 and matches(step.output, ended.stdout)

        said: list[str] = []
        if step.command.startswith(OBSERVING):
            eventually(attempt, SECONDS)
        else:
            assert attempt(), f"{step.command}\n{said[-1]}"

    @contextmanager
    def core(self, step: Step) -> Iterator[None]:
        """Run a core in the background once it has printed the output of the README."""
        with self.output.open("wb") as output:
            process = subprocess.Popen(
                shlex.split(step.command),
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                executable=self.folder / "bin" / __main__.PROGRAM,
            )
        try:
            eventually(lambda: matches(step.output, self.output.read_text()), SECONDS)
            yield
            assert process.wait(SECONDS) == 0, self.output.read_text()
        finally:
            process.kill()
            process.wait(SECONDS)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_command_prints_the_output_of_the_readme(tmp_path: Path, runtime: Path) -> None:
    terminal = Terminal(tmp_path, runtime)
    rest = iter([step for step in steps() if "pip install" not in step.command])
    ran = set()
    for step in rest:
        ran.add(step.command.split()[1])
        if not step.command.startswith("greengrass-emulator run"):
            terminal.run(step)
            continue
        with terminal.core(step):
            for inner in rest:
                ran.add(inner.command.split()[1])
                terminal.run(inner)
                if inner.command == "greengrass-emulator stop":
                    break
    assert {"run", "list", "publish", "configure", "deploy", "inject", "stop"} <= ran


def test_the_install_command_names_an_extra_and_a_program_that_exist() -> None:
    install, *_ = [step.command for step in steps() if "pip install" in step.command]
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    (extra,) = re.findall(r"\[(\w+)\]", install)
    assert extra in project["optional-dependencies"]
    module, _, function = project["scripts"][__main__.PROGRAM].partition(":")
    assert module == __main__.__name__
    assert callable(getattr(__main__, function))
    words = [
        word.replace("python", sys.executable, 1) if word == "python" else word
        for word in shlex.split(install)
    ]
    dry = ["--dry-run", "--no-deps", "--no-build-isolation", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*words, *dry], cwd=PROJECT, timeout=100, check=True)


def test_the_extra_has_what_the_emulator_imports() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    extra = {re.split(r"[^\w-]", name)[0] for name in project["optional-dependencies"]["emulator"]}
    packages = {"yaml": "pyyaml", "paho": "paho-mqtt", "botocore": "boto3"}
    sources = "\n".join(path.read_text() for path in (PROJECT / "greengrass_emulator").rglob("*.py"))
    imported = set(re.findall(r"^(?:from|import) (\w+)", sources, re.MULTILINE))
    foreign = imported - set(sys.stdlib_module_names) - {"greengrass_emulator"}
    assert {packages.get(name, name) for name in foreign} == extra


def test_each_row_of_the_table_names_a_test_that_exists() -> None:
    rows = re.findall(r"^\| .* \| `(test_\w+)` \|$", README, re.MULTILINE)
    assert len(rows) == len(set(rows)) == 20
    for name in rows:
        assert f"\ndef {name}(" in LITE_TESTS, name


@pytest.mark.parametrize(
    ("expected", "output", "fits"),
    [
        ("a ... c\n", "a b c\n", True),
        ("a\n...\nd\n", "a\nb\nc\nd\n", True),
        ("a\n...\nd\n", "a\nb\nc\n", False),
        ("a\n", "b\n", False),
        ("", "anything\n", True),
    ],
)
def test_the_comparison_finds_what_differs(expected: str, output: str, *, fits: bool) -> None:
    assert matches(expected, output) is fits
