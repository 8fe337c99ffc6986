"""The files of a Flower app: the same as in Flower's own bundle."""

import io
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="Flower is not installed: pip install -e '.[flower]' -c constraints.txt")
from flwr.cli.build import build_fab_from_disk
from flwr.common import constant

from fedgrass.console.flower import flower_files
from fedgrass.console.flower.flower_files import app_files
from fedgrass.console.flower.flower_project import read_project
from fedgrass.federation.errors import SettingsError
from tests.fakes.flower_apps import PROJECT, write_app

MANY = dict.fromkeys(
    (
        "README.md",
        "LICENSE",
        "LICENSE.md",
        "notes.txt",
        "data.csv",
        "mean/task.py",
        "mean/deep/er/model.py",
        "mean/settings.yaml",
        "mean/labels.json",
        "mean/.hidden.py",
        "mean/test_task.py",
        "mean/task_test.py",
        "mean/lib/inner.py",
        "mean/venv/inner.py",
        "lib/outer.py",
        "build/outer.py",
        "venv/x.py",
        ".venv/lib/x.py",
        "env/x.py",
        ".flwr/x.toml",
        "mean/__pycache__/x.py",
        "scratch/a.py",
        "scratch/keep.py",
        "ignored.py",
        "x.egg",
        ".git/config.json",
    ),
    "x = 1\n",
)
GITIGNORE = "# scratch\n\nscratch/*\n!scratch/keep.py\nignored.py  \n"


def bundled(folder: Path) -> set[str]:
    """Return the names of the files in the bundle that ``flwr build`` makes."""
    with zipfile.ZipFile(io.BytesIO(build_fab_from_disk(folder))) as archive:
        return {name for name in archive.namelist() if not name.startswith(".info/")}


def taken(folder: Path) -> set[str]:
    return set(app_files(read_project(folder)))


def with_patterns(patterns: str) -> str:
    return PROJECT.replace('publisher = "tests"', f'publisher = "tests"\n{patterns}').replace(
        "Mean of numbers", "mean"
    )


def test_the_patterns_are_those_of_flower() -> None:
    assert flower_files.BUILT_IN_INCLUDE == constant.FAB_INCLUDE_PATTERNS
    assert flower_files.BUILT_IN_EXCLUDE == constant.FAB_EXCLUDE_PATTERNS


@pytest.mark.parametrize(
    "patterns",
    [
        "",
        'fab-include = ["mean/**/*.py", "README.md"]',
        'fab-include = ["mean/**/*.py"]\nfab-exclude = ["mean/deep/**"]',
        'fab-include = ["**/*.py"]\nfab-exclude = ["/scratch/**", "mean/test_*.py"]',
    ],
)
def test_an_app_has_the_files_of_flowers_own_bundle(tmp_path: Path, patterns: str) -> None:
    folder = write_app(tmp_path / "mean", {**MANY, ".gitignore": GITIGNORE}, project=with_patterns(patterns))
    (folder / "mean" / "linked.py").symlink_to(folder / "mean" / "task.py")
    # Flower's walk enters the repository itself; no branch or hook belongs to an app.
    assert taken(folder) == bundled(folder) - {".git/config.json"}


def test_pyproject_is_taken_as_it_is_and_data_are_not(tmp_path: Path) -> None:
    files = app_files(read_project(write_app(tmp_path, {"data.csv": "1", "mean/x.npy": "1"})))
    assert list(files) == ["pyproject.toml", "mean/__init__.py", "mean/client_app.py", "mean/server_app.py"]
    assert files["pyproject.toml"].read_text() == PROJECT


@pytest.mark.parametrize(
    ("patterns", "said"),
    [
        (
            'fab-include = ["nothing/**"]',
            "fab-include has the pattern 'nothing/\\*\\*', which matches no file",
        ),
        ('fab-exclude = ["*.nothing"]', "fab-exclude has the pattern"),
        (
            'fab-include = ["**/*.csv"]',
            "matches no file of the types that Flower takes .*data belong on the dev",
        ),
        ('fab-include = ["!"]', "fab-include has a pattern that cannot be used"),
    ],
)
def test_a_pattern_that_selects_nothing_is_refused(tmp_path: Path, patterns: str, said: str) -> None:
    folder = write_app(tmp_path, {"data.csv": "1"}, project=with_patterns(patterns))
    with pytest.raises(SettingsError, match=said):
        taken(folder)


def test_what_may_be_a_secret_reaches_no_device(tmp_path: Path) -> None:
    folder = write_app(tmp_path, {"credentials.json": "{}"})
    with pytest.raises(
        SettingsError, match=r"credentials.json may be a key .*add it to .gitignore or to fab-ex"
    ):
        taken(folder)
    (folder / ".gitignore").write_text("credentials.json\n")
    assert "credentials.json" not in taken(folder)
