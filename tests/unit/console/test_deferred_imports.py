"""The command line is parsed without the libraries that its actions need, and every action exists."""

import argparse
import inspect
import subprocess
import sys
from collections.abc import Iterator

import pytest

from fedgrass.console.deferred import Deferred, deferred
from fedgrass.console.main import parser

# Each of them takes longer to import than the rest of the command line together.
SLOW = (
    "boto3",
    "botocore",
    "cryptography",
    "matplotlib",
    "msgspec",
    "numpy",
    "paho",
    "rich",
    "torch",
    "yaml",
)


def deferred_actions(commands: argparse.ArgumentParser) -> Iterator[Deferred]:
    """Yield the deferred action of every command below a parser."""
    groups = [action for action in commands._actions if isinstance(action, argparse._SubParsersAction)]
    for group in groups:
        for command in group.choices.values():
            yield from deferred_actions(command)
    action = commands.get_default("run")
    if isinstance(action, Deferred):
        yield action


def test_the_help_imports_no_slow_library() -> None:
    code = (
        "import sys; from fedgrass.console.main import parser\n"
        "assert 'deploy' in parser().format_help()\n"
        f"sys.exit(', '.join(name for name in {SLOW} if name in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr.strip()) == (0, "")


@pytest.mark.parametrize("action", list(deferred_actions(parser())), ids=lambda action: action.target)
def test_every_deferred_action_takes_the_parsed_command_line(action: Deferred) -> None:
    assert list(inspect.signature(action.load()).parameters) == ["arguments"]


def test_a_deferred_function_passes_arguments_and_result() -> None:
    assert deferred("textwrap:shorten")("one two", width=5, placeholder="") == "one"
