"""The component of a Flower app: its files, the generated task, requirements and versions of Python."""

from pathlib import Path

import pytest
from packaging.requirements import Requirement

from fedgrass.console.flower.flower_component import app_pythons, app_requirements, flower_code
from fedgrass.console.flower.flower_project import FlowerProject, read_project
from fedgrass.console.tasks.frozen_requirements import PYTHONS, trainer_pins
from fedgrass.console.tasks.task_component import build_task, component_name
from fedgrass.federation.errors import SettingsError
from tests.fakes.flower_apps import write_app


def requiring(*dependencies: str, python: str = "") -> FlowerProject:
    return FlowerProject(
        folder=Path("app"),
        name="x",
        version="1.0.0",
        server_app="a.s:app",
        client_app="a.c:app",
        dependencies=dependencies,
        requires_python=python,
    )


def named(found: list[Requirement]) -> list[str]:
    return [str(one) for one in found]


def test_the_component_has_the_apps_files_and_a_task_that_names_their_folder(tmp_path: Path) -> None:
    project = read_project(write_app(tmp_path / "app"))
    code = flower_code(project, "flower:mean", tmp_path)
    assert component_name(code.name) == "com.fedgrass.task.flower.mean"
    assert code.module == "fedgrass_flower_app:App"
    generated = code.files["fedgrass_flower_app.py"].read_text()
    assert "class App(FlowerTask):" in generated
    assert "folder = Path(__file__).parent" in generated
    assert code.files["pyproject.toml"].read_bytes() == (tmp_path / "app/pyproject.toml").read_bytes()


def test_the_same_app_gives_the_same_bytes(tmp_path: Path) -> None:
    project = read_project(write_app(tmp_path / "app"))
    made = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        build_task(flower_code(project, "flower:mean", tmp_path / name), "1.0.0", tmp_path / name)
        made.append(next((tmp_path / name / "artifacts").rglob("task.zip")).read_bytes())
    assert made[0] == made[1]


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("fedgrass_flower_app.py", "has the name of the module that fedgrass adds to the app: rename it"),
        ("components/__init__.py", "hides a package of the trainer: rename 'components' in the app"),
    ],
)
def test_a_file_that_gets_in_the_way_is_refused_by_name(tmp_path: Path, file: str, said: str) -> None:
    project = read_project(write_app(tmp_path / "app", {file: ""}))
    with pytest.raises(SettingsError, match=said):
        flower_code(project, "flower:mean", tmp_path)


def test_a_client_app_that_is_left_out_is_found_before_it_reaches_a_device(tmp_path: Path) -> None:
    project = read_project(write_app(tmp_path / "app", {".gitignore": "client_app.py\n"}))
    with pytest.raises(SettingsError, match=r"no module 'mean.client_app' in .*or .gitignore, fab-include"):
        flower_code(project, "flower:mean", tmp_path)


def test_flwr_is_pinned_to_the_version_here_without_its_simulation() -> None:
    assert named(app_requirements(requiring("flwr[simulation]>=1.40", "pandas>=2"), "1.41.0")) == [
        "flwr==1.41.0",
        "pandas>=2",
    ]
    assert named(app_requirements(requiring("flwr[simulation,dp]"), "1.41.0")) == ["flwr[dp]==1.41.0"]
    assert named(app_requirements(requiring(), "1.41.0")) == ["flwr==1.41.0"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("flwr<1.30", r"'flwr<1.30' does not admit flwr 1.41.0, .*flower add --unpin flwr`"),
        ("numpy<2", r"conflicts with the trainer, which has numpy .*take the trainer's by .*--unpin numpy`"),
        ("x @ https://example.com/x.whl", "is installed from an address, which cannot be pinned"),
        ("-r other.txt", "is not a requirement such as"),
    ],
)
def test_a_requirement_that_cannot_be_met_is_refused_with_its_way_out(line: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        app_requirements(requiring(line), "1.41.0")


def test_bounds_of_a_package_do_not_count_if_it_is_unpinned() -> None:
    project = requiring("flwr==1.30", "torch==2.0.0", "torchvision==0.15.0")
    found = app_requirements(project, "1.41.0", ["flwr", "Torch", "torchvision"])
    assert named(found) == ["flwr==1.41.0", "torch", "torchvision"]
    assert "torch" in trainer_pins()
    with pytest.raises(SettingsError, match="--unpin names 'panda', which is not in"):
        app_requirements(project, "1.41.0", ["flwr", "torch", "panda"])


def test_requirements_are_for_the_versions_of_python_that_the_app_admits() -> None:
    assert app_pythons(requiring()) == PYTHONS
    assert app_pythons(requiring(python=">=3.10,<3.13")) == ("3.11", "3.12")
    assert app_pythons(requiring(python=">=3.11.5")) == PYTHONS
    assert app_pythons(requiring(python=">=3.10"), ["3.12", "3.12"]) == ("3.12",)


@pytest.mark.parametrize(
    ("python", "chosen", "said"),
    [
        ("three", [], "requires-python is 'three'; it takes bounds such as"),
        ("<3.11", [], "admits none of the trainer's versions of Python: 3.11, "),
        ("<3.13", ["3.13"], "does not admit --python 3.13"),
    ],
)
def test_an_impossible_version_of_python_is_refused(python: str, chosen: list[str], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        app_pythons(requiring(python=python), chosen)
