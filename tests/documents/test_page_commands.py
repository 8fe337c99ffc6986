"""Each command that a page shows is run by a test; the page has what `fedgrass costs` prints."""

import re
import shlex

import pytest

from fedgrass.console import main
from tests.documents.documented_commands import ELSEWHERE, ROOT, SCRIPT, documented_commands

COMMANDS = sorted({command.removeprefix("fedgrass ") for _, command in documented_commands()})


@pytest.mark.parametrize("command", [one for one in COMMANDS if not re.search(r"^make |--help", one)])
def test_a_command_that_a_page_shows_is_run_by_a_test(command: str) -> None:
    beginnings = [start for start in ELSEWHERE if command.startswith(start)]
    assert command in {run for run, _, _ in SCRIPT} or beginnings, f"no test runs `fedgrass {command}`"
    if beginnings:
        assert (ROOT / "tests" / ELSEWHERE[max(beginnings, key=len)]).is_file()


def test_the_lists_name_no_command_that_the_pages_have_lost() -> None:
    unknown = [start for start in ELSEWHERE if not any(one.startswith(start) for one in COMMANDS)]
    assert unknown == []


def test_the_costs_of_an_example_fleet_are_those_of_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "costs.md").read_text()
    found = re.search(r"\$ fedgrass (costs (?:.*\\\n)*(.*)\n)([^`]*)```", page)
    assert found, "the page shows no example"
    command, _, printed = found.groups()
    main.run(shlex.split(command.replace("\\\n", " ")))
    assert capsys.readouterr().out == printed
