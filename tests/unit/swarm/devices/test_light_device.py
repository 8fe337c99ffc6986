"""What a light device publishes and uploads, against a fake connection and a fake store."""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from fedgrass.federation import weights
from fedgrass.federation.messages import (
    Announcement,
    Completion,
    Heartbeat,
    Hello,
    Status,
    Verdict,
    decode,
    encode,
    round_id,
)
from fedgrass.federation.topics import Kind, of_device
from fedgrass.swarm.devices.light_device import LightDevice, Tally
from fedgrass.swarm.devices.prepared_updates import prepared_update
from fedgrass.swarm.swarm_errors import TransferError
from fedgrass.swarm.swarm_spec import TASK, Habits, Identity

THING, FLEET = "swarm-00001", "press"
ANNOUNCE = of_device(FLEET, THING, Kind.ANNOUNCE)
MODEL = b"the model"
WORK = Announcement(
    run="load",
    round=1,
    attempt=1,
    work="train",
    task=TASK,
    announced_at=1_700_000_000_000,
    deadline_seconds=60,
    bucket="bucket",
    model_key="models/load/0.safetensors",
    model_sha256=weights.sha256(MODEL),
    model_bytes=len(MODEL),
)
COUNTED = Verdict(run="load", round=1, attempt=1, counted=True)


class Bench:
    """A light device on fakes: what it publishes and uploads is kept."""

    def __init__(self, habits: Habits | None = None) -> None:
        self.sent: list[tuple[str, bytes]] = []
        self.objects: dict[str, bytes] = {}
        self.connected, self.failures, self.vanished = True, 0, 0
        self.tally = Tally()
        self.device = LightDevice(
            Identity(thing=THING, certificate="", private_key="", mark=7),
            FLEET,
            "swarm",
            habits or Habits(megabytes=0.001),
            publish=self._publish,
            store=self,
            vanish=self._vanish,
            tally=self.tally,
        )

    async def put(self, bucket: str, key: str, body: bytes) -> None:
        if self.failures:
            self.failures -= 1
            message = "S3 refuses"
            raise TransferError(message)
        self.objects[f"{bucket}/{key}"] = body

    async def get(self, bucket: str, key: str) -> bytes:
        assert f"{bucket}/{key}" == "bucket/models/load/0.safetensors"
        return MODEL

    def announce(self, announcement: Announcement | Verdict) -> None:
        self.device.receive(ANNOUNCE, encode(announcement))

    def statuses(self) -> list[Status]:
        return [decode(payload, Status) for topic, payload in self.sent if topic.endswith("/status")]

    def completions(self) -> list[Completion]:
        return [decode(payload, Completion) for topic, payload in self.sent if topic.endswith("/complete")]

    def _publish(self, topic: str, payload: bytes, qos: int) -> bool:
        assert qos == (0 if topic.endswith("/heartbeat") else 1)
        if self.connected:
            self.sent.append((topic, payload))
        return self.connected

    def _vanish(self) -> None:
        self.vanished += 1


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what changes has no event
            await asyncio.sleep(0)


def _with(story: Callable[[Bench], Awaitable[None]], habits: Habits | None = None) -> Bench:
    async def play() -> Bench:
        bench = Bench(habits)
        await story(bench)
        bench.device.forget()
        return bench

    return asyncio.run(play())


async def _one_round(bench: Bench) -> None:
    bench.announce(WORK)
    await _until(lambda: bool(bench.completions()))


def test_it_accepts_uploads_and_completes_as_a_trainer() -> None:
    bench = _with(_one_round)
    (accepted,), (completion,) = bench.statuses(), bench.completions()
    assert accepted.state == "accepted"
    data = bench.objects[f"bucket/updates/{THING}/load/1-1.safetensors"]
    weights.check_data(data)
    assert (completion.bytes, completion.checksum) == (len(data), weights.checksum(data))
    assert completion.announced_at == WORK.announced_at
    assert completion.round_id == round_id("load", 1, 1)
    assert weights.decode(data)["mark"].tolist() == [7.0]
    assert bench.tally.reply("load/1/1").devices == {THING}


def test_a_verdict_ends_the_repetition() -> None:
    async def story(bench: Bench) -> None:
        await _one_round(bench)
        bench.announce(COUNTED)
        assert not bench.device._repeating

    assert _with(story).tally.reply("load/1/1").counted == {THING}


def test_without_a_verdict_the_completion_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedgrass.swarm.devices.light_device._FIRST_REPLY_DELAY", 0.001)

    async def story(bench: Bench) -> None:
        bench.announce(WORK)
        await _until(lambda: len(bench.completions()) == 3)

    bench = _with(story)
    assert len(set(map(msgspec.json.encode, bench.completions()))) == 1


def test_a_repeated_announcement_does_not_start_the_work_twice() -> None:
    async def story(bench: Bench) -> None:
        bench.announce(WORK)
        bench.announce(WORK)
        await _until(lambda: bool(bench.completions()))
        bench.announce(WORK)  # after the reply: it publishes the same again

    bench = _with(story)
    assert len(bench.statuses()) == 1
    assert len(bench.completions()) == 2
    assert bench.tally.repeated == 2
    assert bench.tally.uploads == 1


def test_a_device_that_doubles_sends_each_message_twice() -> None:
    bench = _with(_one_round, Habits(megabytes=0.001, doubled=1.0))
    assert len(bench.statuses()) == len(bench.completions()) == 2
    assert bench.tally.reply("load/1/1").sent == 2


def test_it_vanishes_after_it_accepted_and_once_per_round() -> None:
    async def story(bench: Bench) -> None:
        bench.announce(WORK)
        await _until(lambda: bench.vanished == 1)
        bench.announce(WORK)  # the cloud repeats it after the hello of a device that came back
        await _until(lambda: bool(bench.completions()))

    bench = _with(story, Habits(megabytes=0.001, vanish=1.0))
    assert [one.state for one in bench.statuses()] == ["accepted", "accepted"]
    assert bench.vanished == 1


def test_a_newer_round_replaces_the_work_in_progress() -> None:
    async def story(bench: Bench) -> None:
        bench.announce(WORK)
        bench.announce(msgspec.structs.replace(WORK, round=2))
        await _until(lambda: bool(bench.completions()))

    assert [one.round for one in _with(story).completions()] == [2]


def test_a_verdict_before_the_reply_drops_the_work() -> None:
    async def story(bench: Bench) -> None:
        bench.announce(WORK)
        bench.announce(msgspec.structs.replace(COUNTED, counted=False, reason="the round is over"))
        await asyncio.sleep(0.01)

    bench = _with(story, Habits(megabytes=0.001, work_seconds=0.001))
    assert not bench.completions()
    assert bench.tally.reply("load/1/1").refused == {THING}


def test_work_of_another_task_is_declined() -> None:
    async def story(bench: Bench) -> None:
        bench.announce(msgspec.structs.replace(WORK, task="digits"))

    (declined,) = _with(story).statuses()
    assert declined.state == "declined"
    assert TASK in declined.reason
    assert declined.round_id == "load/1/1"


def test_a_passing_failure_of_s3_is_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedgrass.swarm.devices.light_device._UPLOAD_DELAY", 0.001)

    async def story(bench: Bench) -> None:
        bench.failures = 2
        await _one_round(bench)

    bench = _with(story)
    assert bench.tally.failed_transfers == 2
    assert [one.state for one in bench.statuses()] == ["accepted"]


def test_a_lasting_failure_of_s3_fails_the_work_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedgrass.swarm.devices.light_device._UPLOAD_DELAY", 0.001)

    async def story(bench: Bench) -> None:
        bench.failures = 100
        bench.announce(WORK)
        await _until(lambda: len(bench.statuses()) == 2)

    failed = _with(story).statuses()[-1]
    assert (failed.state, failed.reason) == ("failed", "S3 refuses")


def test_it_checks_the_model_that_it_downloads() -> None:
    habits = Habits(megabytes=0.001, downloads=True)
    assert _with(_one_round, habits).tally.downloads == 1

    async def story(bench: Bench) -> None:
        bench.announce(msgspec.structs.replace(WORK, model_sha256="0" * 64))
        await _until(lambda: len(bench.statuses()) == 2)

    assert "not the model that was announced" in _with(story, habits).statuses()[-1].reason


def test_an_evaluation_needs_no_upload() -> None:
    async def story(bench: Bench) -> None:
        bench.announce(msgspec.structs.replace(WORK, work="evaluate"))
        await _until(lambda: bool(bench.completions()))

    bench = _with(story)
    assert not bench.objects
    assert bench.completions()[0].bytes == 0


def test_what_is_no_message_is_dropped_and_reported() -> None:
    async def story(bench: Bench) -> None:
        bench.device.receive(ANNOUNCE, b"{")
        bench.device.receive(of_device(FLEET, THING, Kind.HEARTBEAT), b"echo")

    bench = _with(story)
    assert not bench.sent
    assert "not JSON" in bench.tally.error
    assert bench.tally.received == 2


def test_it_arrives_with_a_hello_and_a_heartbeat() -> None:
    async def story(bench: Bench) -> None:
        bench.device.arrive()

    hello, heartbeat = _with(story).sent
    assert decode(hello[1], Hello).component_version == "swarm"
    found = decode(heartbeat[1], Heartbeat)
    assert (found.tasks, found.attributes) == (TASK, {"swarm": "swarm"})


def test_without_a_connection_nothing_counts_as_sent() -> None:
    async def story(bench: Bench) -> None:
        bench.connected = False
        bench.announce(WORK)
        await _until(lambda: bool(bench.tally.uploads))
        await asyncio.sleep(0)

    bench = _with(story)
    assert bench.tally.sent == 0
    assert bench.tally.reply("load/1/1").sent == 0


def test_updates_of_a_round_differ_by_their_mark_only() -> None:
    one, other = (weights.decode(prepared_update(0.001, 0, 1, mark)[0]) for mark in (1, 2))
    assert (one["noise"] == other["noise"]).all()
    assert one["mark"].tolist() != other["mark"].tolist()
    later = weights.decode(prepared_update(0.001, 0, 2, 1)[0])
    assert (one["noise"] != later["noise"]).any()
