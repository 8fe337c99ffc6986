"""ARCHITECTURE.md lists every folder of the code and every contract on imports."""

import tomllib

import pytest

from tests.documents.test_documents import ROOT, rows

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
