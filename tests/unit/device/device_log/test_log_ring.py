"""The last log lines of a device: bounded, kept over a restart, without credentials."""

import logging
import stat
from pathlib import Path

import pytest

from components.trainer.device_log.log_ring import FILE, FOLDER, LogRing, RingHandler, recorded_log
from fedgrass.federation.messages.device_log import LARGEST_LINES, LONGEST_LOG_LINE, MOST_LINES

AT = 1_700_000_000_123
TIME = "2023-11-14T22:13:20.123Z"


def ring_in(folder: Path) -> LogRing:
    ring = LogRing(now=lambda: AT)
    ring.keep_in(folder)
    return ring


def test_a_line_has_its_time_and_its_process(tmp_path: Path) -> None:
    ring = ring_in(tmp_path)
    ring.add("worker", "INFO one\n\n  two\rthree\r\n")
    assert ring.lines() == [f"{TIME} worker {text}" for text in ("INFO one", "two", "three")]


def test_the_last_thousand_lines_are_kept() -> None:
    ring = LogRing(now=lambda: AT)
    for number in range(MOST_LINES + 5):
        ring.add("trainer", str(number))
    assert len(ring.lines()) == MOST_LINES
    assert ring.lines()[0].endswith(" 5")


def test_they_are_bounded_in_bytes_and_so_is_each() -> None:
    ring = LogRing(now=lambda: AT)
    for number in range(500):
        ring.add("worker", f"{number} " + "\u20ac" * 50_000)
    lines = [line.encode() for line in ring.lines()]
    assert max(map(len, lines)) <= LONGEST_LOG_LINE
    assert LARGEST_LINES * 0.9 < sum(len(line) + 1 for line in lines) <= LARGEST_LINES
    assert lines[-1].startswith(f"{TIME} worker 499 ".encode())
    assert lines[-1].endswith(b"...")


def test_ten_megabytes_in_one_text_keep_the_limits() -> None:
    ring = LogRing(now=lambda: AT)
    ring.add("worker", "0123456789\n" * 1_000_000)
    assert len(ring.lines()) == MOST_LINES - 1  # the text ends with an empty line


def test_lines_survive_a_restart_of_the_component(tmp_path: Path) -> None:
    first = ring_in(tmp_path)
    first.add("trainer", "before")  # not closed: the process was killed
    second = LogRing(now=lambda: AT)
    second.add("trainer", "connecting")  # before the work folder was known
    second.keep_in(tmp_path)
    second.add("trainer", "after")
    assert [line.split()[-1] for line in second.lines()] == ["before", "connecting", "after"]
    assert [line.split()[-1] for line in ring_in(tmp_path).lines()] == ["before", "connecting", "after"]


def test_the_file_stays_small_and_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    ring = ring_in(tmp_path)
    sizes = []
    for number in range(3 * MOST_LINES):
        ring.add("trainer", f"{number} " + "x" * 900)
        sizes.append((tmp_path / FOLDER / FILE).stat().st_size)
    assert max(sizes) <= 2 * LARGEST_LINES + LONGEST_LOG_LINE
    assert ring_in(tmp_path).lines() == ring.lines()
    assert stat.S_IMODE((tmp_path / FOLDER / FILE).stat().st_mode) == 0o600


def test_a_torn_or_damaged_file_is_read_as_far_as_possible(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / FILE).write_bytes(b"one\n\xff\x00two\n" + b"x" * 10_000 + b"\nthr")
    ring = ring_in(tmp_path)
    lines = ring.lines()
    assert lines[:2] == ["one", "\\xff\x00two"]
    assert len(lines[2]) <= LONGEST_LOG_LINE
    assert lines[3] == "thr"


def test_a_folder_that_cannot_be_written_leaves_the_lines_in_memory(tmp_path: Path) -> None:
    (tmp_path / FOLDER).write_text("a file where the folder should be")
    ring = ring_in(tmp_path)
    ring.add("trainer", "one")
    (tmp_path / FOLDER).unlink()
    ring.add("trainer", "two")  # the disk has room again
    assert [line.split()[-1] for line in ring.lines()] == ["one", "two"]
    assert [line.split()[-1] for line in ring_in(tmp_path).lines()] == ["one", "two"]


def test_credentials_reach_neither_the_memory_nor_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SVCUID", "THE-TOKEN-OF-THE-NUCLEUS")
    ring = ring_in(tmp_path)
    ring.add("worker", "refused THE-TOKEN-OF-THE-NUCLEUS\naws_secret_access_key=wJalrXUtnFEMI")
    kept = "".join(ring.lines()) + (tmp_path / FOLDER / FILE).read_text()
    assert "THE-TOKEN" not in kept
    assert "wJalrXUtnFEMI" not in kept


def test_what_the_process_logs_is_added_with_tracebacks_until_the_end() -> None:
    log = logging.getLogger("trainer")
    with recorded_log() as ring:
        logging.getLogger().setLevel(logging.INFO)
        log.info("in fleet %s", "plant")
        log.debug("not this")
        try:
            _ = 1 / 0
        except ZeroDivisionError:
            log.exception("it failed")
    log.warning("after the end")
    texts = [line.split(" trainer ", 1)[1] for line in ring.lines()]
    assert texts[:2] == ["INFO in fleet plant", "ERROR it failed"]
    assert texts[-1] == "ZeroDivisionError: division by zero"


def test_a_record_that_cannot_be_formatted_does_not_stop_the_trainer(
    capsys: pytest.CaptureFixture[str],
) -> None:
    ring = LogRing(now=lambda: AT)
    RingHandler(ring).handle(logging.makeLogRecord({"msg": "%d devices", "args": ("many",)}))
    assert ring.lines() == []
    assert "Logging error" in capsys.readouterr().err
