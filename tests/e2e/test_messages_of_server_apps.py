"""Messages of a ServerApp, which is the test, over MQTT, S3 and rules: emulated cores answer them."""

import base64
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path

import msgspec
import numpy as np
import pytest

import package
from fedgrass.console.runs.fleet_operator import RoundRecord
from fedgrass.federation import object_keys, weights
from fedgrass.federation.rounds import Participant, Participation, Round, State
from fedgrass.federation.settings_parser import parse_settings
from fedgrass.federation.task_messages.content_reader import read_content
from fedgrass.federation.task_messages.message_content import Record
from fedgrass.federation.task_messages.round_messages import MessageGroup, RoundMessages, encode_messages
from fedgrass.local.testbed import thing_names
from tests.e2e.conftest import Watched
from tests.e2e.processes import wait_until
from tests.fakes.message_tasks import MODULE, array_record, file_of, header, separate

DEVICES = 2
THINGS = thing_names(DEVICES)
LARGE = [float(number) for number in range(300_000)]  # 1.2 MB


def task(name: str) -> dict[str, str]:
    return {"module": f"{MODULE}:{name}", "path": str(package.ROOT)}


class ServerApp:
    """Sends messages to the devices of a fleet, each round to all of them, and reads their replies."""

    def __init__(self, watched: Watched, run: str, of: str) -> None:
        self._watched = watched
        self._operator = watched.testbed.operator
        self._s3 = watched.testbed.cloud.client("s3")
        self.run = run
        settings = parse_settings({"task": of, "mode": "server_app", "deadline_seconds": 60})
        self._operator.act("start", run, settings=msgspec.to_builtins(settings))
        self._number = 0

    def sends(
        self, records: Sequence[Record], data: Sequence[bytes] = (), *others: bytes, holds: int = 0
    ) -> Round:
        """Send a content to all devices, with its separate files; return the round once it has ended."""
        content = file_of(records, data)
        for file in (content, *others):
            self._put(object_keys.content(self.run, weights.sha256(file)), file)
        self._number += 1
        group = MessageGroup(
            header=header(group=str(self._number)),
            sha256=weights.sha256(content),
            bytes=len(content),
            holds=holds or len(content) + sum(map(len, others)),
            devices=tuple(THINGS),
        )
        listed = encode_messages(RoundMessages(groups=(group,)))
        self._put(object_keys.messages(self.run, self._number), listed)
        self._operator.act("send", self.run, number=self._number, sha256=weights.sha256(listed))
        ended = {State.CLOSED, State.ABANDONED}
        wait_until(lambda: self._latest().round.state in ended, f"the end of round {self._number}")
        return self._latest().round

    def participants(self) -> Mapping[str, Participant]:
        return {part.device: part for part in self._latest().participants}

    def reply(self, device: str) -> tuple[tuple[Record, ...], list[bytes]]:
        """Return the reply of a device to the latest message, as a Grid does."""
        part = self.participants()[device]
        if part.bytes:
            key = object_keys.update(device, self.run, self._number, 1)
            file = self._s3.get_object(Bucket=self._bucket, Key=key)["Body"].read()
            assert weights.checksum(file) == part.checksum
            weights.check_data(file)
        else:
            file = base64.b64decode(part.answer)
        return read_content(BytesIO(file).read, len(file))

    def _latest(self) -> RoundRecord:
        return self._watched.rounds(self.run)[-1]

    @property
    def _bucket(self) -> str:
        name: str = self._watched.testbed.stack["BucketName"]
        return name

    def _put(self, key: str, file: bytes) -> None:
        self._s3.put_object(Bucket=self._bucket, Key=key, Body=file)


@pytest.fixture(scope="module")
def site(make_site: Callable[..., Watched]) -> Watched:
    tasks = {"app": task("Doubling"), "raising": task("Raising"), "noise": {}}
    return make_site(DEVICES, tasks=tasks, memory_megabytes=8000)


def test_large_and_small_messages_are_answered_by_all_devices(site: Watched) -> None:
    app = ServerApp(site, "answers", "app")
    record, data = array_record("model", w=LARGE)
    separated, arrays = separate(record, data)
    first = app.sends([separated], (), arrays)
    assert (first.state, first.replied, first.asked) == (State.CLOSED, DEVICES, DEVICES)
    for thing in THINGS:
        assert app.participants()[thing].bytes > len(arrays)
        (model, metrics), (doubled,) = app.reply(thing)
        assert (model.name, metrics.values) == ("model", {"messages": 1})
        np.testing.assert_array_equal(np.frombuffer(doubled, "<f4"), 2 * np.array(LARGE, "<f4"))
    app.sends(*array_record_of([1.0, 2.0]))
    for thing in THINGS:
        part = app.participants()[thing]
        assert (part.state, part.bytes, bool(part.answer)) == (Participation.REPLIED, 0, True)
        (_, metrics), (doubled,) = app.reply(thing)
        assert metrics.values == {"messages": 2}  # the state of the first one was kept
        assert np.frombuffer(doubled, "<f4").tolist() == [2.0, 4.0]


def array_record_of(values: list[float]) -> tuple[list[Record], list[bytes]]:
    record, data = array_record(w=values)
    return [record], data


def test_an_app_that_raises_is_told_in_a_line_and_kept_on_the_device(
    site: Watched, folder_of: Callable[[Watched, str], Path]
) -> None:
    app = ServerApp(site, "raises", "raising")
    ended = app.sends([])
    assert (ended.state, ended.failed) == (State.ABANDONED, DEVICES)
    for thing in THINGS:
        part = app.participants()[thing]
        assert part.state is Participation.FAILED
        assert part.reason.startswith("task 'raising' failed: KeyError: 'front' (")
        named = part.reason.rpartition("; traceback: ")[2]
        (file,) = folder_of(site, thing).rglob(named)
        assert 'cameras["front"]' in file.read_text()


def test_devices_decline_what_they_cannot_answer_or_hold(site: Watched) -> None:
    app = ServerApp(site, "mute", "noise")
    app.sends([])
    reasons = {part.reason for part in app.participants().values()}
    assert all("task 'noise' has no method answer()" in reason for reason in reasons)
    assert {part.state for part in app.participants().values()} == {Participation.DECLINED}
    large = ServerApp(site, "large", "app")
    ended = large.sends([], holds=5_000_000_000)
    assert (ended.state, ended.declined) == (State.ABANDONED, DEVICES)
    expected = "the work needs at least 10,000.0 MB of memory, and memory_megabytes is 8000"
    assert {part.reason for part in large.participants().values()} == {expected}
