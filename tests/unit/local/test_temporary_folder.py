"""The temporary folder of the demo: its owner, and its removal after the owner was killed."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from greengrass_emulator.emulator_errors import TemporaryFolderError
from greengrass_emulator.temporary_folder import LOCK, PREFIX, remove_abandoned, temporary_folder

HOLD = """
import sys
from greengrass_emulator.temporary_folder import temporary_folder
with temporary_folder(0, print) as folder:
    (folder / "cloud").mkdir()
    (folder / "cloud" / "state").write_text("much")
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


@contextmanager
def owner() -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Run another process with such a folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout
        yield process, Path(process.stdout.readline().strip())
    finally:
        process.kill()
        process.communicate(timeout=10)


def killed() -> Path:
    with owner() as (process, folder):
        process.kill()
        process.wait(10)
    assert (folder / "cloud" / "state").exists()
    return folder


def test_the_folder_is_gone_at_the_end_whatever_happened(parent: Path) -> None:
    with pytest.raises(ZeroDivisionError), temporary_folder(0, print) as folder:
        (folder / "file").write_text(str(1 / 0))
    assert list(parent.iterdir()) == []


def test_the_folder_of_a_killed_process_is_removed_with_a_line_about_it() -> None:
    left = killed()
    said: list[str] = []
    with temporary_folder(0, said.append):
        assert not left.exists()
    assert said == [f"removed what a killed process had left: {left}"]


def test_the_folder_of_a_living_process_stays() -> None:
    with owner() as (_, folder):
        assert remove_abandoned(folder.parent) == []
        assert (folder / "cloud" / "state").exists()


def test_a_folder_without_a_lock_a_file_and_a_link_stay(
    parent: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    somewhere = tmp_path_factory.mktemp("elsewhere")
    (somewhere / LOCK).touch()
    (somewhere / "precious").touch()
    (parent / f"{PREFIX}other").mkdir()
    (parent / f"{PREFIX}file").touch()
    (parent / f"{PREFIX}link").symlink_to(somewhere)
    (parent / f"{PREFIX}linked-lock").mkdir()
    (parent / f"{PREFIX}linked-lock" / LOCK).symlink_to(somewhere / LOCK)
    assert remove_abandoned(parent) == []
    assert len(list(parent.iterdir())) == 4
    assert (somewhere / "precious").exists()


def test_a_link_inside_a_dead_folder_is_removed_and_not_followed(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    left = killed()
    somewhere = tmp_path_factory.mktemp("elsewhere")
    (somewhere / "precious").touch()
    (left / "link").symlink_to(somewhere)
    assert remove_abandoned(left.parent) == [left]
    assert (somewhere / "precious").exists()


def test_a_folder_of_another_user_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    left = killed()
    monkeypatch.setattr("os.getuid", lambda: left.stat().st_uid + 1)
    assert remove_abandoned(left.parent) == []
    assert left.exists()


def test_a_disk_without_room_is_refused_by_its_folder(parent: Path) -> None:
    with (
        pytest.raises(TemporaryFolderError, match=f"{parent} has .* MB free, .* MB are needed"),
        temporary_folder(10**18, print),
    ):
        pytest.fail("there is no such disk")
    assert list(parent.iterdir()) == []
