"""Code that runs on a device keeps to Python 3.10, as in JetPack 6: syntax and names, found in the sources.

mypy, which knows the standard library of each version, checks the same in `make check`.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.trainer import install
from fedgrass.federation.rounds import State
from fedgrass.federation.topics import Kind

PROJECT = Path(__file__).parents[2]
SOURCES = [
    *sorted((PROJECT / "components").rglob("*.py")),
    *sorted((PROJECT / "fedgrass" / "federation").rglob("*.py")),
]
NEWER = {
    "asyncio": {"Barrier", "Runner", "TaskGroup", "timeout", "timeout_at"},
    "contextlib": {"chdir"},
    "datetime": {"UTC"},
    "enum": {"EnumCheck", "ReprEnum", "StrEnum", "member", "nonmember", "verify"},
    "hashlib": {"file_digest"},
    "itertools": {"batched"},
    "math": {"cbrt", "exp2", "sumprod"},
    "operator": {"call"},
    "typing": {
        "LiteralString",
        "Never",
        "NotRequired",
        "Required",
        "Self",
        "Unpack",
        "assert_never",
        "override",
    },
}
NEWER_KEYWORDS = {"process_group"}


def newer_names(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source, feature_version=(3, 10))):
        if isinstance(node, ast.ImportFrom):
            yield from (name.name for name in node.names if name.name in NEWER.get(node.module or "", set()))
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.attr in NEWER.get(node.value.id, set()):
                yield f"{node.value.id}.{node.attr}"
        elif isinstance(node, ast.keyword) and node.arg in NEWER_KEYWORDS:
            yield str(node.arg)


def imported(tree: ast.Module) -> set[str]:
    """Return the modules that a file imports."""
    found = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    return {name.name for node in found if isinstance(node, ast.Import) for name in node.names}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_no_source_of_the_device_needs_a_newer_python(path: Path) -> None:
    source = path.read_text()
    assert list(newer_names(source)) == []
    assert "tomllib" not in imported(ast.parse(source))


@pytest.mark.parametrize(
    "line",
    [
        "from enum import StrEnum",
        "import datetime\ndatetime.UTC",
        "Popen(x, process_group=0)",
        "from typing import Self",
    ],
)
def test_the_check_sees_what_is_newer(line: str) -> None:
    assert list(newer_names(line))


def test_enumerations_of_texts_are_their_texts() -> None:
    assert (str(State.OPEN), f"{Kind.ANNOUNCE}", Kind("announce")) == ("OPEN", "announce", Kind.ANNOUNCE)


def test_the_configured_interpreter_may_be_as_old_as_that() -> None:
    assert install.OLDEST_CONFIGURED == (3, 10)
