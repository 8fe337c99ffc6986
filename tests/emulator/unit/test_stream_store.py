import logging
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from greengrass_emulator.stream_manager.stream_files import RECORD_OVERHEAD_BYTES
from greengrass_emulator.stream_manager.stream_messages import ExportCursor
from greengrass_emulator.stream_manager.stream_protocol import (
    ExportDefinition,
    Persistence,
    ResponseStatus,
    S3TaskExecutor,
    StatusConfig,
    StrategyOnFull,
    StreamDefinition,
    StreamManagerError,
)
from greengrass_emulator.stream_manager.stream_store import StreamStore

_ALL = 1 << 30


class Clock:
    def __init__(self) -> None:
        self.seconds = 1_000_000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def open_store(tmp_path: Path, clock: Clock) -> Iterator[Callable[[], StreamStore]]:
    opened: list[StreamStore] = []

    def reopen() -> StreamStore:
        for store in opened:
            store.close()
        opened.append(StreamStore(tmp_path / "streams", lambda _name: None, clock))
        return opened[-1]

    yield reopen
    for store in opened:
        store.close()


def definition(name: str = "updates", **fields: Any) -> StreamDefinition:
    fields.setdefault("strategy_on_full", StrategyOnFull.OVERWRITE_OLDEST_DATA)
    return StreamDefinition(name=name, **fields)


def small(**fields: Any) -> StreamDefinition:
    """A stream of four segments with two records of 512 bytes each."""
    return definition(max_size=4096, stream_segment_size=1024, **fields)


def payloads(store: StreamStore, name: str = "updates", start: int = 0) -> list[bytes]:
    return [message.payload for message in store.get(name).read(start, _ALL, _ALL)]


def half_segment(number: int) -> bytes:
    return bytes([number]) * (512 - RECORD_OVERHEAD_BYTES)


def exported(**fields: Any) -> StreamDefinition:
    return definition(
        export_definition=ExportDefinition(s3_task_executor=[S3TaskExecutor(identifier="s3")]), **fields
    )


def segments(root: Path) -> list[Path]:
    return sorted(root.glob("streams/*/*.segment"))


def test_messages_definitions_and_numbers_survive_a_restart(open_store: Callable[[], StreamStore]) -> None:
    store = open_store()
    store.create(definition(flush_on_write=True))
    assert [store.append("updates", bytes([number])) for number in (7, 8, 9)] == [0, 1, 2]
    store = open_store()
    assert payloads(store) == [b"\x07", b"\x08", b"\x09"]
    assert store.get("updates").definition == definition(flush_on_write=True)
    assert store.append("updates", b"next") == 3


def test_a_torn_last_record_is_dropped_and_the_others_stay(
    open_store: Callable[[], StreamStore], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store()
    store.create(definition())
    for payload in (b"first", b"second", b"torn"):
        store.append("updates", payload)
    store.close()
    (segment,) = segments(tmp_path)
    segment.write_bytes(segment.read_bytes()[:-2])
    with caplog.at_level(logging.WARNING):
        store = open_store()
    assert "torn record" in caplog.text
    assert payloads(store) == [b"first", b"second"]
    assert store.append("updates", b"third") == 2
    assert payloads(open_store()) == [b"first", b"second", b"third"]


@pytest.mark.parametrize("cut", range(1, RECORD_OVERHEAD_BYTES + 4))
def test_a_crash_at_any_byte_of_a_record_loses_that_record_only(
    open_store: Callable[[], StreamStore], tmp_path: Path, cut: int
) -> None:
    store = open_store()
    store.create(definition())
    store.append("updates", b"kept")
    store.append("updates", b"torn")
    store.close()
    (segment,) = segments(tmp_path)
    segment.write_bytes(segment.read_bytes()[:-cut])
    assert payloads(open_store()) == [b"kept"]


def test_a_record_whose_bytes_changed_is_dropped(
    open_store: Callable[[], StreamStore], tmp_path: Path
) -> None:
    store = open_store()
    store.create(definition())
    store.append("updates", b"kept")
    store.append("updates", b"spoilt")
    store.close()
    (segment,) = segments(tmp_path)
    content = bytearray(segment.read_bytes())
    content[-1] ^= 1
    segment.write_bytes(content)
    assert payloads(open_store()) == [b"kept"]


def test_a_full_stream_that_overwrites_drops_its_oldest_segment(
    open_store: Callable[[], StreamStore],
) -> None:
    store = open_store()
    store.create(small())
    for number in range(9):
        store.append("updates", half_segment(number))
    assert payloads(store) == [half_segment(number) for number in range(2, 9)]
    assert store.get("updates").oldest == 2
    assert store.get("updates").total_bytes == 7 * 512
    store = open_store()
    assert payloads(store, start=7) == [half_segment(7), half_segment(8)]


def test_a_full_stream_that_rejects_keeps_what_it_has(open_store: Callable[[], StreamStore]) -> None:
    store = open_store()
    store.create(small(strategy_on_full=StrategyOnFull.REJECT_NEW_DATA))
    for number in range(8):
        store.append("updates", half_segment(number))
    with pytest.raises(StreamManagerError, match=r"full: it holds 4096 bytes of maxSize 4096"):
        store.append("updates", b"one more")
    assert payloads(store) == [half_segment(number) for number in range(8)]


def test_a_message_larger_than_its_stream_is_refused_and_nothing_is_lost(
    open_store: Callable[[], StreamStore],
) -> None:
    store = open_store()
    store.create(small())
    store.append("updates", b"kept")
    with pytest.raises(StreamManagerError, match="maxSize") as refusal:
        store.append("updates", bytes(4096))
    assert refusal.value.status is ResponseStatus.REQUEST_TOO_LARGE
    assert payloads(store) == [b"kept"]


def test_numbers_continue_after_every_message_expired_and_a_restart(
    open_store: Callable[[], StreamStore], clock: Clock
) -> None:
    store = open_store()
    store.create(definition(time_to_live_millis=60_000))
    store.append("updates", b"old")
    clock.seconds += 59.9
    assert payloads(store) == [b"old"]
    clock.seconds += 0.2
    assert payloads(store) == []
    assert open_store().append("updates", b"new") == 1


def test_a_task_that_waits_for_its_export_outlives_its_time_to_live(
    open_store: Callable[[], StreamStore], clock: Clock
) -> None:
    store = open_store()
    store.create(exported(time_to_live_millis=60_000))
    store.append("updates", b"task")
    clock.seconds += 61
    assert payloads(store) == [b"task"]
    store.get("updates").save_cursor("s3", ExportCursor(last_exported_sequence_number=0))
    assert payloads(store) == []


def test_the_cursor_of_an_export_survives_a_restart(open_store: Callable[[], StreamStore]) -> None:
    store = open_store()
    store.create(exported())
    store.append("updates", b"task")
    cursor = ExportCursor(last_exported_sequence_number=0, last_export_time=5, exported_messages_count=1)
    store.get("updates").save_cursor("s3", cursor)
    assert open_store().get("updates").cursor("s3") == cursor


def test_a_number_that_was_exported_is_not_given_again_when_its_message_was_lost(
    open_store: Callable[[], StreamStore], tmp_path: Path
) -> None:
    store = open_store()
    store.create(exported())
    store.append("updates", b"lost in a power cut")
    store.get("updates").save_cursor("s3", ExportCursor(last_exported_sequence_number=0))
    store.close()
    segments(tmp_path)[0].write_bytes(b"")
    assert open_store().append("updates", b"new") == 1


def test_an_unreadable_cursor_means_exporting_again(
    open_store: Callable[[], StreamStore], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store()
    store.create(exported())
    store.get("updates").save_cursor("s3", ExportCursor(last_exported_sequence_number=0))
    store.close()
    next(tmp_path.glob("streams/*/exports.json")).write_bytes(b"")
    assert open_store().get("updates").cursor("s3").last_exported_sequence_number == -1
    assert "exported again" in caplog.text


def test_a_stream_in_memory_is_gone_after_a_restart_and_writes_nothing(
    open_store: Callable[[], StreamStore], tmp_path: Path
) -> None:
    store = open_store()
    store.create(definition(persistence=Persistence.MEMORY))
    store.append("updates", b"status")
    assert payloads(store) == [b"status"]
    assert segments(tmp_path) == []
    assert open_store().names() == []


def test_a_deleted_stream_leaves_no_file_and_its_name_can_be_reused(
    open_store: Callable[[], StreamStore], tmp_path: Path
) -> None:
    store = open_store()
    store.create(definition())
    store.append("updates", b"gone")
    kept = store.get("updates")
    store.delete("updates")
    assert [path.name for path in (tmp_path / "streams").iterdir()] == [".lock"]
    with pytest.raises(StreamManagerError, match="no stream 'updates'"):
        kept.append(b"too late")
    store.create(definition())
    assert store.append("updates", b"anew") == 0


def test_what_a_crash_left_of_a_creation_is_cleared_away(
    open_store: Callable[[], StreamStore], tmp_path: Path
) -> None:
    open_store()
    (tmp_path / "streams" / ".updates-unfinished").mkdir()
    assert open_store().names() == []
    assert [path.name for path in (tmp_path / "streams").iterdir()] == [".lock"]


@pytest.mark.parametrize("name", ["..", ".", "a, b", "ü" * 255])
def test_a_strange_name_stays_inside_the_folder(
    open_store: Callable[[], StreamStore], tmp_path: Path, name: str
) -> None:
    store = open_store()
    store.create(definition(name))
    store.append(name, b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["streams"]
    assert payloads(open_store(), name) == [b"x"]


def test_two_names_that_look_alike_are_two_streams(open_store: Callable[[], StreamStore]) -> None:
    store = open_store()
    store.create(definition("a b"))
    store.create(definition("a_b"))
    store.append("a b", b"x")
    assert payloads(store, "a_b") == []


def test_a_folder_serves_one_store_at_a_time(tmp_path: Path) -> None:
    with (
        closing(StreamStore(tmp_path, lambda _name: None)),
        pytest.raises(StreamManagerError, match="used by another Stream Manager"),
    ):
        StreamStore(tmp_path, lambda _name: None)
    StreamStore(tmp_path, lambda _name: None).close()


def test_an_unreadable_definition_is_named_with_the_way_out(
    open_store: Callable[[], StreamStore], tmp_path: Path
) -> None:
    open_store().create(definition())
    path = next(tmp_path.glob("streams/*/definition.json"))
    path.write_text("{")
    with pytest.raises(StreamManagerError, match=r"definition\.json.*delete"):
        open_store()


def test_an_export_that_an_update_leaves_out_is_forgotten(open_store: Callable[[], StreamStore]) -> None:
    store = open_store()
    store.create(exported())
    store.get("updates").save_cursor("s3", ExportCursor(last_exported_sequence_number=4))
    store.update(definition())
    store.update(exported())
    assert store.get("updates").cursor("s3").last_exported_sequence_number == -1


def test_a_status_stream_has_to_exist_first(open_store: Callable[[], StreamStore]) -> None:
    export = S3TaskExecutor(identifier="s3", status_config=StatusConfig(status_stream_name="status"))
    with pytest.raises(StreamManagerError, match="needs status stream 'status'"):
        open_store().create(definition(export_definition=ExportDefinition(s3_task_executor=[export])))
