"""The commands of README.md and docs/ that need a running fleet, run in the order of a user's day."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedgrass.console import main, stack
from fedgrass.local.testbed import Testbed, open_testbed
from tests.documents.documented_commands import SCRIPT, words_of

DEVICES = ("press-1", "press-7")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Testbed]:
    """A cloud and the devices that the pages name, which train digits."""
    things = {
        thing: {"tasks": {"digits": {"share": share, "shares": len(DEVICES)}}}
        for share, thing in enumerate(DEVICES)
    }
    with open_testbed(tmp_path_factory.mktemp("fleet"), things, profile="lite") as testbed:
        testbed.cloud.client("iot").create_thing_group(thingGroupName="presses")
        stack.client.cache_clear()  # clients of other tests' clouds
        yield testbed
        stack.client.cache_clear()


@pytest.mark.timeout(600)  # it carries out fifty commands
def test_the_commands_of_the_pages_print_what_the_pages_say(
    fleet: Testbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in fleet.cloud.environment().items():
        monkeypatch.setenv(name, value)
    toml = (Path(main.__file__).parents[2] / "docs" / "runs.md").read_text().split("```toml\n")[1]
    Path("settings.toml").write_text(toml.split("```")[0])
    for command, code, pattern in SCRIPT:
        monkeypatch.setattr(sys, "argv", words_of(f"fedgrass {command}"))
        ended = carried_out()
        said = "".join(capsys.readouterr()) + (ended if isinstance(ended, str) else "")
        assert (1 if isinstance(ended, str) else ended, command) == (code, command), said
        assert re.search(pattern, said), f"{command}: {said}"
    assert Path("compared.png").read_bytes().startswith(b"\x89PNG")
    assert len(Path("runs.jsonl").read_text().splitlines()) > 10


def carried_out() -> str | int:
    """Run the command of ``sys.argv``; return its exit code, or the error with which it ends."""
    try:
        main.command()
    except SystemExit as ended:
        return ended.code or 0
    return 0
