"""Files that are read no faster than a link may be used."""

import io
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from components.runtime.component_errors import UploadFailed
from components.trainer.upload.rate_limited_file import MOST_AT_ONCE, Pacer, RateLimitedFile
from components.trainer.upload.s3_upload import MOST_PARTS, _cut
from tests.fakes.memory_device import Clock


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "update"
    path.write_bytes(bytes(range(256)) * 400)
    return path


def paced(file: Path, start: int, length: int, rate: int = 0) -> RateLimitedFile:
    return RateLimitedFile(file, start, length, Pacer(rate), threading.Event())


@given(rate=some.integers(1, 10**7), counts=some.lists(some.integers(0, 10**6), max_size=50))
def test_no_more_is_sent_than_the_rate_allows(rate: int, counts: list[int]) -> None:
    clock = Clock()
    begun = clock.now
    pacer, sent = Pacer(rate, clock), 0
    for count in counts:
        clock.now += pacer.seconds_for(count)
        assert sent <= (clock.now - begun) * rate * (1 + 1e-6) + 1e-3
        sent += count


def test_time_in_which_nothing_was_sent_is_not_made_up_for() -> None:
    clock = Clock()
    pacer = Pacer(100, clock)
    assert pacer.seconds_for(100) == 0
    clock.now += 3600
    assert pacer.seconds_for(100) == 0
    assert pacer.seconds_for(100) == 1


def test_no_limit_never_waits() -> None:
    assert Pacer(0, Clock()).seconds_for(10**12) == 0


@given(start=some.integers(0, 500), length=some.integers(0, 500), sizes=some.lists(some.integers(0, 99)))
def test_a_part_reads_as_the_same_bytes_of_the_file_would(
    tmp_path_factory: pytest.TempPathFactory, start: int, length: int, sizes: list[int]
) -> None:
    path = tmp_path_factory.mktemp("part") / "file"
    path.write_bytes(bytes(range(256)) * 4)
    expected = io.BytesIO(path.read_bytes()[start : start + length])
    with paced(path, start, length) as part:
        for size in sizes:
            assert part.read(size) == expected.read(size)
            assert part.tell() == expected.tell()
        assert part.read() == expected.read()
        assert part.seek(0, io.SEEK_END) == length
        assert part.seek(0) == 0
        assert part.read() == path.read_bytes()[start : start + length]


def test_what_goes_over_the_link_goes_in_small_pieces_and_what_is_signed_does_not(file: Path) -> None:
    with paced(file, 0, 100_000, rate=10**9) as part:
        part.begin_signing()
        assert len(part.read()) == 100_000
        part.seek(0)
        part.begin_sending()
        assert len(part.read()) == MOST_AT_ONCE


@pytest.mark.parametrize("rate", [0, 1])
def test_a_cancelled_upload_is_read_no_further(file: Path, rate: int) -> None:
    cancelled = threading.Event()
    with RateLimitedFile(file, 0, 100_000, Pacer(rate), cancelled) as part:
        part.begin_sending()
        part.read(10)
        cancelled.set()
        with pytest.raises(UploadFailed, match="the upload of update was cancelled"):
            part.read(10)
        with pytest.raises(UploadFailed):
            part.begin_signing()


def test_a_cancelled_upload_does_not_wait_for_its_turn(file: Path) -> None:
    cancelled = threading.Event()
    pacer = Pacer(1)
    pacer.seconds_for(3600)
    with RateLimitedFile(file, 0, 100, pacer, cancelled) as part:
        part.begin_sending()
        threading.Timer(0.05, cancelled.set).start()
        with pytest.raises(UploadFailed):
            part.read(10)  # in an hour, otherwise


@given(size=some.integers(1, 10**14), part=some.integers(5 * 2**20, 2**30))
def test_parts_cover_a_file_and_are_never_too_many(size: int, part: int) -> None:
    first = [place for place, _ in zip(_cut(size, part), range(3), strict=False)]
    length = first[0][1]
    assert -(-size // length) <= MOST_PARTS
    assert all(start == number * length for number, (start, _) in enumerate(first))
    assert sum(count for _, count in first) == min(size, 3 * length)
