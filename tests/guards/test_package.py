"""What package.py builds: reproducible bytes, and exactly the files that are needed."""

import hashlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import package


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def copy_of_the_tree(target: Path) -> Path:
    """Copy the sources of the build to another folder, with other times and permissions."""
    for part in ("package.py", "gdk-config.json", "constraints.txt"):
        target.mkdir(exist_ok=True)
        (target / part).write_bytes((package.ROOT / part).read_bytes())
    for part in ("fedgrass", "components", "cloud_functions", "recipes"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(package.ROOT / part, target / part, copy_function=shutil.copyfile, ignore=ignored)
    return target


def run_package(tree: Path, *arguments: str) -> str:
    command = [sys.executable, "package.py", *arguments]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


@pytest.mark.slow
def test_the_same_tree_gives_the_same_bytes_wherever_it_lies(tmp_path: Path) -> None:
    built = []
    for name in ("one", "two"):
        tree = copy_of_the_tree(tmp_path / name)
        run_package(tree, "component")
        run_package(tree, "lambda")
        built.append(digests(tree / "greengrass-build") | digests(tree / "build"))
    assert built[0] == built[1]
    # The trainer's zip and recipe, the functions' zip; zip, recipe and GDK project of the other two.
    assert len(built[0]) == 3 + 2 * 4


@pytest.mark.slow
def test_a_change_of_one_file_changes_the_zip(tmp_path: Path) -> None:
    tree = copy_of_the_tree(tmp_path / "tree")
    run_package(tree, "lambda")
    before = digests(tree / "build")
    with (tree / "cloud_functions" / "averager.py").open("a") as file:
        file.write("# changed\n")
    run_package(tree, "lambda")
    assert digests(tree / "build") != before


@pytest.mark.slow  # a separate process imports the result, including torch
@pytest.mark.parametrize(
    ("build", "archive", "own", "entries"),
    [
        (
            "lambda",
            "cloud_functions",
            "cloud_functions",
            ["cloud_functions.averager", "cloud_functions.initiator"],
        ),
        (
            "component",
            "trainer",
            "components",
            ["components.trainer.trainer_main", "components.trainer.worker.__main__"],
        ),
        (
            "component",
            "predictor",
            "components",
            [
                "components.predictor.predictor_main",
                "components.trainer.tasks.digits",
                "components.trainer.tasks.noise",
            ],
        ),
    ],
)
def test_a_zip_carries_the_federation_and_its_own_folder_and_needs_nothing_else_of_the_tree(
    tmp_path: Path, build: str, archive: str, own: str, entries: list[str]
) -> None:
    tree = copy_of_the_tree(tmp_path / "tree")
    run_package(tree, build)
    file, *same = tree.rglob(f"{archive}.zip")  # both components of the trainer have one
    assert all(other.read_bytes() == file.read_bytes() for other in same)
    with zipfile.ZipFile(file) as opened:
        names = opened.namelist()
        opened.extractall(tmp_path / "unpacked")
    parts = {
        "/".join(name.split("/")[:2]) if name.startswith("fedgrass") else name.split("/")[0] for name in names
    }
    assert parts == {own, "fedgrass/__init__.py", "fedgrass/federation"}
    assert not [name for name in names if name.endswith(".pyc")]
    program = f"""
import importlib, pkgutil, sys
root = {str(package.ROOT)!r}
sys.path = [{str(tmp_path / "unpacked")!r}, *(path for path in sys.path if path not in ("", root))]
for name in {entries!r}:
    importlib.import_module(name)
files = dict((name, getattr(module, "__file__", None) or "") for name, module in sys.modules.items())
strangers = [name for name, file in files.items() if file.startswith(root + "/") and "/.venv/" not in file]
sys.exit(", ".join(strangers) or 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
