"""A crash at any step of an atomic write leaves the old file or the new one."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import pytest

from components.runtime.atomic_file import publish_file, unfinished, write_atomically, write_unfinished

OLD, NEW = b"old" * 1000, b"new, and longer" * 1000
KILLED = 9
# Counts the calls that change the disk as steps; ends without clean-up before the step of the given number.
WRITER = """
import os, sys
from pathlib import Path
from components.runtime import atomic_file

path, last, data = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3].encode()
steps = []

def counted(name, call):
    def run(*arguments, **options):
        steps.append(name)
        if len(steps) == last:
            os._exit(9)
        return call(*arguments, **options)
    return run

create, open_folder = counted("create", os.open), counted("open folder", os.open)
os.open = lambda path, flags, *mode, **named: (
    (create if flags & os.O_CREAT else open_folder)(path, flags, *mode, **named)
)
os.fsync = counted("fsync", os.fsync)
Path.replace = counted("rename", Path.replace)

def write(file):
    for half in (data[: len(data) // 2], data[len(data) // 2 :]):
        counted("write", file.write)(half)
        file.flush()

atomic_file.write_unfinished(path, write)
atomic_file.publish_file(atomic_file.unfinished(path), path)
print(",".join(steps))
"""
STEPS = ("create", "write", "write", "fsync", "rename", "open folder", "fsync")


def write_in_process(path: Path, last: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WRITER, str(path), str(last), NEW.decode()]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_data_is_on_the_disk_before_the_rename_and_the_rename_before_the_end(tmp_path: Path) -> None:
    done = write_in_process(tmp_path / "state.json")
    assert done.stdout.strip().split(",") == list(STEPS)


@pytest.mark.parametrize("step", range(1, len(STEPS) + 1))
@pytest.mark.parametrize("before", [OLD, None], ids=["replaced", "created"])
def test_a_crash_at_any_step_leaves_the_old_file_or_the_new_one(
    tmp_path: Path, step: int, before: bytes | None
) -> None:
    path = tmp_path / "state.json"
    if before is not None:
        path.write_bytes(before)
    assert write_in_process(path, step).returncode == KILLED
    found = path.read_bytes() if path.exists() else None
    assert found == (NEW if step > STEPS.index("rename") + 1 else before)
    write_atomically(path, NEW)  # the next write succeeds after any crash
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("state.json", NEW)]


def test_a_full_disk_leaves_the_old_file_and_gets_its_space_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(OLD)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, NEW)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("state.json", OLD)]


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(file: BinaryIO) -> None:
        file.write(NEW)
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 - the writer's own
        write_unfinished(tmp_path / "update", fail)
    assert list(tmp_path.iterdir()) == []


def test_a_complete_file_gets_its_name_later(tmp_path: Path) -> None:
    update = tmp_path / "update"
    assert write_unfinished(update, lambda file: file.write(NEW)) == len(NEW)
    assert not update.exists()
    publish_file(unfinished(update), update)
    assert update.read_bytes() == NEW
    assert list(tmp_path.iterdir()) == [update]


def test_a_file_is_created_with_its_permissions(tmp_path: Path) -> None:
    write_atomically(tmp_path / "key", b"secret", mode=0o600)
    assert (tmp_path / "key").read_bytes() == b"secret"
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "file.unfinished").write_bytes(b"of a killed process")
    write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_failure_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"old")

    def fsync(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
