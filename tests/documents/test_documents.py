"""The pages match the code: settings, links, paths, commands, the diagram of a round."""

import json
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from msgspec import Struct

import package
from components.trainer.trainer_configuration import FOR_OTHERS, Configuration
from components.trainer.worker.worker_protocol import StatisticsPolicy
from fedgrass import __version__
from fedgrass.console.main import parse
from fedgrass.federation.selection import SELECTIONS
from fedgrass.federation.settings import RunSettings
from fedgrass.federation.statistics.statistics_query import StatisticsQuery
from tests.documents.documented_commands import DOCUMENTS, documented_commands, words_of
from tests.documents.documented_fields import field_words

ROOT = package.ROOT
SETTINGS = (ROOT / "docs" / "settings.md").read_text()
ROW = re.compile(r"^\| (.*) \|$", re.MULTILINE)


def rows(text: str, heading: str) -> Iterator[list[str]]:
    """Return the cells of every table whose first column has the heading."""
    for table in re.split(r"\n(?!\|)", text):
        found = [re.split(r" ?\| ", row) for row in ROW.findall(table)]
        if found and found[0][0] == heading:
            yield from found[2:]


def spelled(default: object) -> str:
    """Return a default as the pages spell it; empty if there is none."""
    if default is msgspec.NODEFAULT:
        return "(to be given)"
    if default is None or default == "":
        return ""
    return f"`{default}`" if isinstance(default, str) else f"`{json.dumps(msgspec.to_builtins(default))}`"


@pytest.mark.parametrize(
    ("heading", "kind"),
    [("setting", RunSettings), ("part of `statistics`", StatisticsQuery), ("key", Configuration)],
)
def test_the_page_of_settings_has_each_field_with_what_it_takes_and_its_default(
    heading: str, kind: type[Struct]
) -> None:
    documented = {name.strip("`"): (takes, default) for name, takes, default, _ in rows(SETTINGS, heading)}
    if kind is Configuration:
        del documented["python"]  # of the install step
    assert documented == {name: (said, spelled(value)) for name, (said, value) in field_words(kind).items()}


def test_the_page_of_statistics_has_each_key_of_the_device_with_what_it_takes_and_its_default() -> None:
    page = (ROOT / "docs" / "statistics.md").read_text()
    documented = {name.strip("`"): (takes, default) for name, takes, default, _ in rows(page, "key")}
    expected = field_words(StatisticsPolicy)
    assert documented == {name: (said, spelled(value)) for name, (said, value) in expected.items()}


def test_the_page_of_selection_has_each_option_with_what_it_takes_and_its_default() -> None:
    page = (ROOT / "docs" / "selection.md").read_text()
    documented = {
        (strategy.strip("`"), option.strip("`")): (takes, default)
        for option, strategy, takes, default, _ in rows(page, "option")
    }
    assert documented == {
        (name, option): (said, spelled(value))
        for name, strategy in SELECTIONS.items()
        for option, (said, value) in field_words(type(strategy)).items()
    }
    assert {row[0].strip("`") for row in rows(page, "`selection`") if len(row) == 4} == set(SELECTIONS)


def test_the_recipe_has_the_defaults_that_the_trainer_has() -> None:
    recipe: Any = yaml.safe_load((ROOT / "recipes" / "com.fedgrass.Trainer.yaml").read_text())
    configured = recipe["ComponentConfiguration"]["DefaultConfiguration"]
    defaults = {
        name: msgspec.to_builtins(value)
        for name, (_, value) in field_words(Configuration).items()
        if name != "tasks"
    }
    assert {name: configured[name] for name in configured.keys() - FOR_OTHERS - {"tasks"}} == defaults


def test_the_latest_version_in_the_changelog_is_that_of_the_package() -> None:
    versions = re.findall(r"^## \[([^\]]+)\](.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == ("Unreleased", "")
    assert versions[1][0] == __version__
    assert all(re.fullmatch(r" - \d{4}-\d\d-\d\d", date) for _, date in versions[1:])


def _anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub generates them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: page.name)
def test_every_link_of_a_page_leads_to_an_existing_file_or_heading(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), target
        assert not anchor or anchor in _anchors(linked), target


# A path in the repository as the pages write one: in backquotes, starting with a top-level folder.
FOLDERS = "benchmarks|cloud_functions|components|docs|fedgrass|iot_rules|recipes|tests"
MADE = ("fedgrass/<", "fedgrass/demo", "fedgrass/predict/", "fedgrass/presses/")  # topics


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: page.name)
def test_every_path_on_a_page_exists(page: Path) -> None:
    for path in re.findall(rf"`((?:{FOLDERS})/[^`\s]*)`", page.read_text()):
        assert path.startswith(MADE) or (ROOT / path).exists(), path


@pytest.mark.parametrize(("page", "command"), sorted(set(documented_commands())))
def test_every_command_that_a_page_shows_is_understood(page: str, command: str) -> None:
    if command.startswith("make "):
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert command.split()[1] in targets, page
        return
    if "--help" in command:
        return
    try:
        assert callable(parse(words_of(command)))
    except SystemExit:
        pytest.fail(f"{page}: {command} is not understood")


DOCS = Path(__file__).parents[2] / "docs"


def test_the_diagram_in_the_docs_is_drawn_from_the_table() -> None:
    drawn = runpy.run_path(str(DOCS / "draw_round.py"))["drawn"]
    page = (DOCS / "round.md").read_text()
    assert drawn(page) == page
    assert "OPEN --> ABANDONED" in page


def test_the_diagram_of_a_device_in_a_buffered_run_is_drawn_from_the_table() -> None:
    drawn = runpy.run_path(str(DOCS / "draw_round.py"))["drawn_buffers"]
    page = (DOCS / "buffered_rounds.md").read_text()
    assert drawn(page) == page
    assert "HELD --> CARRIED" in page
