"""Tracebacks of failed work are kept on the device: whole, few and bounded."""

import os
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
import pytest

from components.trainer.worker import __main__ as worker_main
from components.trainer.worker.failure_log import LARGEST, MOST_FILES, keep_traceback
from components.trainer.worker.work_runner import WorkRunner, describe
from components.trainer.worker.worker_protocol import Failure, WorkOrder
from tests.fakes.message_tasks import Raising, announced, file_of

CONTENT = file_of([])


def order(folder: Path, number: int = 1, **other: Any) -> WorkOrder:
    return WorkOrder(
        announcement=announced(CONTENT, number=number, **other),
        options={},
        update=str(folder / "updates" / "u"),
        failures=str(folder / "failures"),
    )


def raised(text: str = "no camera") -> Exception:
    return caught(LookupError(text))


def caught(error: Exception) -> Exception:
    """Return an exception that was raised here."""

    def fail() -> None:
        raise error

    with pytest.raises(type(error)) as info:
        fail()
    return info.value


def failure(work: WorkOrder, task: object) -> Failure:
    runner = WorkRunner(lambda *_: CONTENT)
    runner._tasks[work.announcement.task] = ({}, task)  # type: ignore[assignment]
    answer = worker_main.perform(runner, work, worker_main.Channel(BytesIO()), lambda: False)
    assert isinstance(answer, Failure)
    return answer


def test_the_reason_names_the_exception_its_place_and_the_file_of_its_traceback(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    reason = failure(order(tmp_path), Raising()).reason
    assert reason.startswith("task 'app' failed: KeyError: 'front' (")
    assert "message_tasks.py:" in reason
    assert reason.endswith("; traceback: failures/app-run-1-1.txt")
    file = tmp_path / "failures" / "app-run-1-1.txt"
    text = file.read_text()
    assert "app-run/1/1: message app" in text
    assert text.count("\n  File ") >= 3
    assert 'cameras["front"]' in text
    assert str(file) in caplog.text


class Loud(Raising):
    def answer(self, message: object) -> object:  # type: ignore[override]  # noqa: ARG002 - the signature
        raise LookupError("x" * 450)


def test_a_file_is_named_only_if_the_reason_has_room_for_it(tmp_path: Path) -> None:
    reason = failure(order(tmp_path), Loud()).reason
    assert "traceback" not in reason
    assert len(reason) <= 512
    assert "LookupError: xxx" in reason
    assert (tmp_path / "failures" / "app-run-1-1.txt").exists()


def test_a_failure_that_fedgrass_names_has_no_traceback(tmp_path: Path) -> None:
    """Its text is made for the operator; nothing in the user's code went wrong."""
    answer = failure(order(tmp_path, message=msgspec.UNSET), Raising())
    assert "no field 'message'" in answer.reason
    assert not (tmp_path / "failures").exists()


def test_causes_are_kept_too(tmp_path: Path) -> None:
    error = RuntimeError("the app cannot go on")
    error.__cause__ = raised("no camera")
    file = keep_traceback(order(tmp_path), error)
    assert file
    assert "LookupError: no camera" in file.read_text()
    assert "RuntimeError: the app cannot go on" in file.read_text()


def test_the_latest_are_kept(tmp_path: Path) -> None:
    for number in range(1, MOST_FILES + 4):
        file = keep_traceback(order(tmp_path, number), raised())
        assert file
        os.utime(file, (number, number))
    kept = {file.name for file in (tmp_path / "failures").iterdir()}
    assert len(kept) == MOST_FILES
    assert "app-run-3-1.txt" not in kept
    assert f"app-run-{MOST_FILES + 3}-1.txt" in kept


def test_a_long_traceback_keeps_its_beginning_and_its_end(tmp_path: Path) -> None:
    file = keep_traceback(order(tmp_path), raised("y" * 3 * LARGEST + "\nthe end"))
    assert file
    text = file.read_bytes()
    assert len(text) <= LARGEST
    assert b"app-run/1/1" in text[:200]
    assert b"bytes are left out" in text
    assert text.endswith(b"the end\n")


class _NoText(Exception):
    def __str__(self) -> str:
        message = "again"
        raise ValueError(message)


def test_the_place_in_a_task_that_came_as_a_component_is_relative_to_its_release(tmp_path: Path) -> None:
    file = tmp_path / "releases" / "1.0.0-8f7b1ddce2fd" / "my_app" / "client_app.py"
    with pytest.raises(ZeroDivisionError) as info:
        exec(compile("1 / 0", str(file), "exec"))  # noqa: S102 - a module of a release
    assert describe(info.value).endswith(" (my_app/client_app.py:1)")


def test_an_exception_that_cannot_be_described_has_its_places(tmp_path: Path) -> None:
    file = keep_traceback(order(tmp_path), caught(_NoText()))
    assert file
    assert "_NoText" in file.read_text()
    assert "test_failure_log.py" in file.read_text()


def test_texts_that_are_no_unicode_are_kept_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        file = keep_traceback(order(tmp_path), raised("no file \udcff"))
    assert file
    assert r"no file \udcff" in file.read_text()
    assert r"no file \udcff" in caplog.text


def test_a_folder_that_cannot_be_written_keeps_the_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "failures").write_bytes(b"in the way")
    reason = failure(order(tmp_path), Raising()).reason
    assert reason.startswith("task 'app' failed: KeyError: 'front' (")
    assert "traceback:" not in reason
    assert "the traceback cannot be kept" in caplog.text


def test_without_a_folder_nothing_is_kept(tmp_path: Path) -> None:
    work = msgspec.structs.replace(order(tmp_path), failures="")
    assert keep_traceback(work, raised()) is None
