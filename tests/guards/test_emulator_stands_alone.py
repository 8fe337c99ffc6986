"""The Greengrass emulator and its tests are independent of fedgrass; its copied table equals the original.

That the package itself does not import fedgrass is a contract of import-linter (pyproject.toml).
"""

import ast
import re
from pathlib import Path

import pytest

from fedgrass.federation import aws_errors
from greengrass_emulator.stream_manager import s3_export_task
from package import ROOT

FOREIGN = {"fedgrass", "cloud_functions", "components", "package"}
TESTS = sorted((ROOT / "tests" / "emulator").rglob("*.py"))
TABLES = [table for module in (aws_errors, s3_export_task) for table in vars(module).values()]
CODES = {code for table in TABLES if isinstance(table, frozenset) for code in table if isinstance(code, str)}
SOURCES = sorted((ROOT / "greengrass_emulator").rglob("*.py"))


def imported(source: str) -> set[str]:
    """Return the modules that a program imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("path", TESTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_emulator_s_tests_import_nothing_of_fedgrass(path: Path) -> None:
    modules = imported(path.read_text())
    assert {module.partition(".")[0] for module in modules} & FOREIGN == set()
    # Nor by way of a helper of fedgrass's tests.
    helpers = {module for module in modules if module.startswith("tests")}
    assert all(module.startswith("tests.emulator") for module in helpers), helpers


def test_imports_are_found_in_functions_too() -> None:
    assert imported("def f():\n    from fedgrass.local import demo\nimport components.x") == {
        "fedgrass.local",
        "components.x",
    }


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_emulator_does_not_name_fedgrass(path: Path) -> None:
    assert not re.search("fedgrass", path.read_text(), re.IGNORECASE)


@pytest.mark.parametrize("status", [0, *range(400, 430), *range(499, 512)])
def test_both_tables_of_s3_errors_agree(status: int) -> None:
    assert len(CODES) > 30
    for code in ("", "AccessDenied", "NoSuchBucket", *sorted(CODES)):
        assert s3_export_task.is_transient(code, status) == aws_errors.is_transient(code, status), code
