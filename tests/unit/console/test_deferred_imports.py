"""The command line is parsed without the libraries that its actions need, and every action exists."""

import inspect
import subprocess
import sys
from typing import Any

import pytest
from cyclopts import App

from fedgrass.console import main
from fedgrass.console.deferred import Deferred, deferred
from tests.unit.console.command_tree import commands, least_words

# Each of them takes longer to import than the rest of the command line together.
SLOW = (
    "boto3",
    "botocore",
    "cryptography",
    "matplotlib",
    "msgspec",
    "numpy",
    "paho",
    "torch",
    "yaml",
)


def test_all_commands_are_imported_without_a_slow_library() -> None:
    code = (
        "import sys; from tests.unit.console.command_tree import commands\n"
        "assert len(list(commands())) > 20\n"
        f"sys.exit(', '.join(name for name in {(*SLOW, 'rich')} if name in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr.strip()) == (0, "")


def test_the_help_imports_no_command_and_no_markdown() -> None:
    code = (
        "import sys; from fedgrass.console import main; main.run(['--help'])\n"
        "loaded = [name for name in sys.modules if name.startswith('fedgrass.console.commands.')]\n"
        f"loaded += [name for name in {(*SLOW, 'rich.markdown')} if name in sys.modules]\n"
        "sys.exit(', '.join(loaded) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr.strip()) == (0, "")
    assert "deploy " in done.stdout


OWN = "core"  # the emulator's actions import what they need themselves


@pytest.mark.parametrize(
    ("words", "app"),
    [(words, app) for words, app in commands() if words[0] != OWN],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_every_command_calls_its_action_with_arguments_that_it_takes(
    words: tuple[str, ...], app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[Any] = []

    def check(action: Deferred, /, *given: Any, **options: Any) -> None:
        called.append(inspect.signature(action.load()).bind(*given, **options))

    monkeypatch.setattr(Deferred, "__call__", check)
    main.run(least_words(words, app))
    assert len(called) == 1


def test_a_deferred_function_passes_arguments_and_result() -> None:
    assert deferred("textwrap:shorten")("one two", width=5, placeholder="") == "one"
