"""README's map of a round: a round is played and traced; each function of the map must be on its path."""

import ast
import re
from pathlib import Path

import pytest

from tests.fakes.whole_round import PROJECT, WholeRound, reached

README = (PROJECT / "README.md").read_text(encoding="utf-8")
# [`function`](path/of/module.py) or [`Class.method`](path/of/module.py)
FUNCTION = re.compile(r"\[`([A-Za-z_][\w.]*)`\]\(([\w/]+\.py)\)")
STEP = re.compile(r"^(\d+)\. ", re.MULTILINE)
MOST_FILES = 87  # on the path of a round


def section() -> str:
    text = README.split("## The map of a round", 1)[1]
    return text.split("\n## ", 1)[0]


def named() -> list[tuple[str, str]]:
    """Return (path, qualified name) of each function that the map links, in the map's order."""
    return [(path, name) for name, path in FUNCTION.findall(section())]


def defined(path: str) -> set[str]:
    found = set()
    for node in ast.parse((PROJECT / path).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)}
    return found


@pytest.fixture(scope="module")
def path_of_a_round(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    with pytest.MonkeyPatch.context() as patch, reached() as found:
        whole = WholeRound(tmp_path_factory.mktemp("round"), patch)
        whole.register()
        whole.play()
    assert whole.model, "the round made no model: what was traced is not a round"
    return found


@pytest.fixture(scope="module")
def files_of_a_round(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The files from the start of a run to its model, without the devices' start."""
    with pytest.MonkeyPatch.context() as patch:
        whole = WholeRound(tmp_path_factory.mktemp("round"), patch)
        whole.register()
        with reached() as found:
            whole.play()
    return {path for path, _ in found}


def test_the_map_has_about_twelve_numbered_steps() -> None:
    numbers = [int(number) for number in STEP.findall(section())]
    assert numbers == list(range(1, len(numbers) + 1))
    assert 10 <= len(numbers) <= 14
    assert len(named()) >= len(numbers)


@pytest.mark.parametrize(("path", "name"), named())
def test_a_function_of_the_map_exists_and_is_on_the_path_of_a_round(
    path: str, name: str, path_of_a_round: list[tuple[str, str]]
) -> None:
    assert name in defined(path), f"README names {name} of {path}, which is not defined there"
    assert (path, name) in path_of_a_round, f"README names {name} of {path}, which a round never calls"


def test_the_map_is_in_the_order_in_which_a_round_reaches_its_functions(
    path_of_a_round: list[tuple[str, str]],
) -> None:
    places = [path_of_a_round.index(one) for one in named() if one in path_of_a_round]
    out_of_order = [named()[i + 1] for i in range(len(places) - 1) if places[i] > places[i + 1]]
    assert not out_of_order


def test_a_round_crosses_no_more_files_than_a_reader_can_follow(files_of_a_round: set[str]) -> None:
    assert len(files_of_a_round) <= MOST_FILES, sorted(files_of_a_round)


def test_the_path_of_a_round_holds_both_sides(path_of_a_round: list[tuple[str, str]]) -> None:
    folders = {Path(path).parts[0] for path, _ in path_of_a_round}
    assert {"cloud_functions", "components", "fedgrass"} <= folders
