"""The files of a task: what is taken with its module, and what is refused."""

from pathlib import Path

import pytest

from fedgrass.console.tasks import task_files as module_of_files
from fedgrass.console.tasks.task_files import task_files
from fedgrass.federation.errors import SettingsError


def write(folder: Path, *names: str, text: str = "") -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def test_a_module_comes_with_what_it_imports_from_its_folder_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path, "other.py", "test_cracks.py", "data/images.npy", "helpers/__init__.py", "helpers/more.py")
    write(tmp_path, "late.py", text="from shapes import square")
    write(tmp_path, "shapes.py", text="import json")
    write(tmp_path, "cracks.py", text="import helpers.more, numpy\ndef fit():\n    import late\n")
    assert list(task_files(tmp_path, "cracks")) == [
        "cracks.py",
        "helpers/__init__.py",
        "helpers/more.py",
        "late.py",
        "shapes.py",
    ]


def test_a_package_comes_whole_without_caches_and_hidden_files(tmp_path: Path) -> None:
    write(tmp_path, "inspection/__init__.py", "inspection/cracks.py", "inspection/deep/model.py")
    write(tmp_path, "inspection/.git/hook.py", "inspection/__pycache__/cracks.py", "inspection/.env.py")
    write(tmp_path, "inspection/venv/lib.py")
    assert list(task_files(tmp_path, "inspection.cracks")) == [
        "inspection/__init__.py",
        "inspection/cracks.py",
        "inspection/deep/model.py",
    ]


def test_data_come_by_a_pattern_a_file_or_a_folder(tmp_path: Path) -> None:
    write(tmp_path, "cracks.py", "labels.txt", "weights/a.npy", "weights/deep/b.npy", "weights/.hidden")
    assert list(task_files(tmp_path, "cracks", ["labels.txt", "weights"])) == [
        "cracks.py",
        "labels.txt",
        "weights/a.npy",
        "weights/deep/b.npy",
    ]
    assert list(task_files(tmp_path, "cracks", ["weights/*.npy"])) == ["cracks.py", "weights/a.npy"]


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("../other", "is not below the task's folder"),
        ("/etc/passwd", "is not below the task's folder"),
        ("a/../../b", "is not below the task's folder"),
        ("", "is not below the task's folder"),
        ("none/*.npy", "matches no file"),
        (".git", "matches no file"),
        ("keys", r"press\.pem may be a key or a password"),
    ],
)
def test_a_pattern_that_takes_nothing_or_something_foreign_is_refused(
    tmp_path: Path, pattern: str, words: str
) -> None:
    write(tmp_path, "cracks.py", "keys/press.pem", ".git/config")
    with pytest.raises(SettingsError, match=words):
        task_files(tmp_path, "cracks", [pattern])


@pytest.mark.parametrize(
    "name",
    ["private.key", "a.PEM", "id_rsa", "id_ed25519.pub", "credentials", "credentials.json", "secrets.yaml"],
)
def test_a_file_that_may_be_a_secret_is_refused_by_name(tmp_path: Path, name: str) -> None:
    write(tmp_path, "cracks.py", f"data/{name}")
    with pytest.raises(SettingsError, match=rf"data/{name} may be a key or a password"):
        task_files(tmp_path, "cracks", ["data"])


def test_a_symbolic_link_may_lead_to_another_file_of_the_folder_only(tmp_path: Path) -> None:
    folder = tmp_path / "task"
    write(folder, "cracks.py", "one.txt")
    write(tmp_path, "outside.txt")
    (folder / "two.txt").symlink_to("one.txt")
    assert list(task_files(folder, "cracks", ["two.txt"])) == ["cracks.py", "two.txt"]
    (folder / "three.txt").symlink_to("../outside.txt")
    with pytest.raises(SettingsError, match=r"three\.txt is a symbolic link to .*outside\.txt, outside"):
        task_files(folder, "cracks", ["*.txt"])


def test_a_link_to_a_folder_outside_or_to_nothing_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "task"
    write(folder, "cracks.py")
    write(tmp_path, "outside/a.txt")
    (folder / "data").symlink_to(tmp_path / "outside")
    (folder / "broken").symlink_to("nothing")
    with pytest.raises(SettingsError, match="outside the task's folder"):
        task_files(folder, "cracks", ["data/*"])
    with pytest.raises(SettingsError, match="which is not a file"):
        task_files(folder, "cracks", ["bro*"])


def test_a_module_that_is_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "task"
    folder.mkdir()
    write(tmp_path, "cracks.py")
    (folder / "cracks.py").symlink_to(tmp_path / "cracks.py")
    with pytest.raises(SettingsError, match="outside the task's folder"):
        task_files(folder, "cracks")


def test_a_link_to_a_secret_is_found_by_the_name_of_its_target(tmp_path: Path) -> None:
    write(tmp_path, "cracks.py", "press.key")
    (tmp_path / "labels.txt").symlink_to("press.key")
    with pytest.raises(SettingsError, match="may be a key"):
        task_files(tmp_path, "cracks", ["labels.txt"])


def test_a_module_that_is_not_there_or_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"neither cracks\.py nor a package cracks in .* --path"):
        task_files(tmp_path, "cracks")
    with pytest.raises(SettingsError, match="is not a folder"):
        task_files(tmp_path / "none", "cracks")
    write(tmp_path, "cracks.py", text="def fit(:\n")
    with pytest.raises(SettingsError, match=r"cracks\.py:1: SyntaxError: invalid syntax"):
        task_files(tmp_path, "cracks")


def test_more_than_greengrass_takes_is_refused_with_the_largest_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module_of_files, "MOST_BYTES", 100)
    write(tmp_path, "cracks.py", "small.bin")
    write(tmp_path, "large.bin", text="x" * 101)
    with pytest.raises(
        SettingsError, match=r"have 101 bytes, the largest .*large\.bin, and Greengrass takes 100"
    ):
        task_files(tmp_path, "cracks", ["*.bin"])


def test_a_file_of_two_gigabytes_is_refused_unread(tmp_path: Path) -> None:
    write(tmp_path, "cracks.py")
    with (tmp_path / "images.npy").open("wb") as file:
        file.truncate(2_000_000_001)  # sparse
    with pytest.raises(SettingsError, match="2,000,000,001 bytes"):
        task_files(tmp_path, "cracks", ["images.npy"])
