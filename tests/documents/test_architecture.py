"""ARCHITECTURE.md lists every folder of the code and every contract on imports; its paths exist."""

import re
import tomllib
from pathlib import Path

import pytest

from tests.documents.documented_commands import DOCUMENTS, ROOT
from tests.documents.test_documents import rows

PAGE = (ROOT / "ARCHITECTURE.md").read_text()


def test_the_page_has_each_contract_on_imports_by_its_name() -> None:
    configured = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    assert [name for name, _ in rows(PAGE, "contract")] == [contract["name"] for contract in configured]


@pytest.mark.parametrize(
    ("folder", "shown"),
    [
        ("cloud_functions", "cloud_functions/{}/"),
        ("components", "components/{}/"),
        ("components/trainer", "{}/"),  # all in the trainer's row
        ("fedgrass", "fedgrass/{}/"),
    ],
)
def test_the_page_has_each_folder_of_the_code(folder: str, shown: str) -> None:
    listed = " ".join(name + content for name, content, _ in rows(PAGE, "folder"))
    inside = sorted(path.parent.name for path in (ROOT / folder).glob("*/__init__.py"))
    assert len(inside) >= 3
    assert [name for name in inside if f"`{shown.format(name)}`" not in listed] == []


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: page.name)
def test_paths_in_the_emulator_and_the_provisioning_exist(page: Path) -> None:
    """test_documents.py checks those of the other folders."""
    named = re.findall(r"`((?:greengrass_emulator|provisioning)/[^`\s]*)`", page.read_text())
    assert [path for path in named if not (ROOT / path).exists()] == []
