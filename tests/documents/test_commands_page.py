"""docs/commands.md is what the command line prints, and the commands and options that pages name exist."""

import re
import runpy
import shlex
from pathlib import Path

import pytest

from fedgrass.console import main
from tests.documents.documented_commands import DOCUMENTS, ROOT

PAGE = ROOT / "docs" / "commands.md"


def test_the_page_of_commands_is_current() -> None:
    written = runpy.run_path(str(ROOT / "docs" / "write_commands.py"))["written"]
    page = PAGE.read_text()
    assert written(page) == page, "run `python docs/write_commands.py`"


def named_commands(page: Path) -> list[str]:
    """Return the commands within the text of a page, such as `fedgrass deploy cloud`."""
    return sorted(set(re.findall(r"`fedgrass ([a-z-][^`\n]*)`", page.read_text())))


OF_NOW = [page for page in DOCUMENTS if page.name != "CHANGELOG.md"]  # which names commands of the past
_WAITING = {"run", "runs", "repair", "devices"}


@pytest.mark.parametrize("page", OF_NOW, ids=lambda page: page.name)
def test_every_command_and_option_that_a_page_names_exists(page: Path) -> None:
    for command in named_commands(page):
        words = shlex.split(command)
        if words[0] in _WAITING - set(main.app()):
            continue
        app, options = main.app(), {"--help", "--version", "--install-completion"}
        while words and words[0] in app and not words[0].startswith("-"):
            app = main.load(words[0]) if app is main.app() else app[words[0]]
            words.pop(0)
        if app.default_command:
            options |= {name for one in app.assemble_argument_collection() for name in one.names}
        else:
            # A group may be named by itself, or with a placeholder or several of its commands.
            assert app is not main.app() or not words or words[0] in options, f"{page.name}: {command}"
            assert not words or not re.fullmatch("[a-z-]+", words[0]) or words[0] in options, command
        given = {word.partition("=")[0] for word in words if re.match("--[a-z]", word)}
        assert given <= options, f"{page.name}: {command}"
