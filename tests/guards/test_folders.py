"""The rules of the tree: few modules per folder, no base name twice, packages that list their modules."""

import ast
import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.guards.cloud_files import PROJECT

CODE = ("cloud_functions", "components", "fedgrass", "greengrass_emulator")
MEASURED = ("benchmarks",)  # a question is named as what it measures: `start`, `device`
MOST_MODULES = 15  # of a folder
# Files that a user writes.
# The first two: what `fedgrass flower add` generates, and the end of a pattern of Flower's.
EXAMPLES = {
    "fedgrass_flower_app.py",
    "_test.py",
    "cracks.py",
    "test_cracks.py",
    "helpers.py",
    "statistics.py",
    "my_module.py",
    "cautious.py",
}
PACKAGES = sorted(
    file.parent
    for folder in (*CODE, *MEASURED)
    for file in (PROJECT / folder).rglob("__init__.py")
    if file.read_text()
)


def modules(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*.py") if not file.name.startswith("__"))


def docstring(folder: Path) -> str:
    return ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""


def test_no_base_name_occurs_twice_in_the_code() -> None:
    code = [folder for folder in PACKAGES if folder.relative_to(PROJECT).parts[0] in CODE]
    names = Counter(file.name for folder in code for file in modules(folder))
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize("folder", PACKAGES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_a_folder_has_few_modules_and_says_what_it_is_for(folder: Path) -> None:
    assert len(modules(folder)) <= MOST_MODULES
    assert docstring(folder)


@pytest.mark.parametrize("folder", PACKAGES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_a_package_that_lists_its_modules_lists_all_of_them(folder: Path) -> None:
    text = docstring(folder)
    stems = [file.stem for file in modules(folder)]
    listed = [stem for stem in stems if stem in text]
    if len(listed) > 1:
        assert listed == stems, f"{folder.relative_to(PROJECT)}/__init__.py lists some of its modules only"


def test_modules_that_code_and_pages_name_exist() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    existing = {Path(name).name for name in listed} | EXAMPLES
    missing = [
        f"{name}:{number}: {found}"
        for name in listed
        if name.endswith((".py", ".md", ".yaml")) and not name.startswith(("tests/", "CHANGELOG"))
        for number, line in enumerate((PROJECT / name).read_text(encoding="utf-8").splitlines(), 1)
        for found in re.findall(r"(?<![\w{/])([a-z_0-9]+\.py)\b", line)
        if found not in existing
    ]
    assert missing == []
