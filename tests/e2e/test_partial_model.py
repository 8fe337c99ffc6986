"""Devices train a model of which only the shared arrays travel; private and frozen ones stay on them."""

import base64
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from fedgrass.console.runs.fleet_operator import RoundRecord
from fedgrass.console.runs.live_view import Watcher
from fedgrass.federation.rounds import Participation
from fedgrass.federation.runs import RunState
from fedgrass.federation.settings_parser import parse_settings
from fedgrass.local.task_sharing import initial_model
from fedgrass.local.testbed import Testbed, open_testbed, thing_names
from tests.e2e.processes import wait_until
from tests.fakes.partial_task import FROZEN_MARK, PRIVATE_MARK, PRIVATE_NUMBER, Marked

TASK = {"module": "tests.fakes.partial_task:Marked", "path": str(Path(__file__).parents[2])}
DEVICES, ROUNDS = thing_names(3), 2
ODD = DEVICES[-1]  # its component has another frozen base
PRIVATE = [np.full(2, PRIVATE_NUMBER + count, np.float32).tobytes() for count in range(4)]
HIDDEN = [
    *PRIVATE,
    PRIVATE_MARK,
    FROZEN_MARK,
    base64.b64encode(PRIVATE_MARK)[:-4],
    PRIVATE_MARK.hex().encode(),
    str(list(PRIVATE_MARK)[:8]).strip("[]").encode(),
    *(str(PRIVATE_NUMBER + count).encode() for count in range(4)),
]


@dataclass
class Partial:
    """A testbed, what was heard on its topics, and the runs that have ended."""

    testbed: Testbed
    heard: list[tuple[str, bytes]] = field(default_factory=list)

    def play(self, name: str, base: float, *, fetched: bool = False) -> list[RoundRecord]:
        """Return the rounds of a run whose frozen base has a version."""
        initial = initial_model(Marked(base), seed=3)
        settings = {"task": "marked", "rounds": ROUNDS, "deadline_seconds": 60, "attempts": 1}
        if fetched:
            self.testbed.operator.upload_frozen(name, initial.frozen_file())
        self.testbed.operator.start(name, initial.settings(parse_settings(settings)), initial.file())
        wait_until(lambda: self.testbed.operator.run(name).state is not RunState.RUNNING, "its end", 90)
        run = self.testbed.operator.run(name)
        assert run.state is RunState.SUCCEEDED, run.reason
        return list(self.testbed.operator.rounds(run))

    def model(self, name: str) -> dict[str, Any]:
        return dict(safetensors.numpy.load(self.testbed.operator.model(name, ROUNDS)))

    def objects(self) -> dict[str, bytes]:
        """Return every version of every object in the bucket."""
        s3, bucket = self.testbed.cloud.client("s3"), self.testbed.stack["BucketName"]
        keys = [one["Key"] for one in s3.list_objects_v2(Bucket=bucket)["Contents"]]
        return {key: s3.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}

    def logs(self) -> dict[str, bytes]:
        """Return the logs of the cores, which Greengrass's log manager may send."""
        return {str(file): file.read_bytes() for file in (self.testbed.folder / "cores").rglob("*.log")}


@pytest.fixture(scope="module")
def partial() -> Iterator[Partial]:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        things = {
            thing: {"tasks": {"marked": {**TASK, "base": 2 if thing == ODD else 1}}, "heartbeat_seconds": 5}
            for thing in DEVICES
        }
        site = Partial(stack.enter_context(open_testbed(Path(folder), things)))
        watcher = Watcher("fedgrass", site.testbed.observer, lambda *said: site.heard.append(said))
        stack.enter_context(watcher)
        yield site


@pytest.fixture(scope="module")
def rounds(partial: Partial) -> list[RoundRecord]:
    return partial.play("partial", base=1)


def test_the_model_has_the_shared_arrays_and_each_device_its_own_head(
    partial: Partial, rounds: list[RoundRecord]
) -> None:
    model = partial.model("partial")
    assert model.keys() == {"body.weight", "body.bias"}
    np.testing.assert_array_equal(model["body.weight"], np.full(4, 3 + ROUNDS, np.float32))
    heads = [
        {reply.metrics["head"] for reply in record.participants if reply.state is Participation.REPLIED}
        for record in rounds
    ]
    assert heads == [{0}, {1}, {2}]


def test_the_device_with_another_frozen_base_declines_and_the_others_continue(
    rounds: list[RoundRecord],
) -> None:
    for record in rounds:
        by_name = {part.device: part for part in record.participants}
        assert by_name[ODD].state is Participation.DECLINED
        assert "this device has another version of the frozen base" in by_name[ODD].reason
        assert record.round.replied == len(DEVICES) - 1


def test_nothing_that_leaves_a_device_has_a_byte_of_its_private_or_frozen_arrays(
    partial: Partial, rounds: list[RoundRecord]
) -> None:
    assert rounds
    for thing in DEVICES[:-1]:
        (own,) = (partial.testbed.folder / "cores" / thing).rglob("private/marked/partial.safetensors")
        assert PRIVATE_MARK in own.read_bytes(), "the test looks for the wrong bytes"
        assert PRIVATE[ROUNDS] in own.read_bytes(), "the test looks for the wrong numbers"
    objects = {key: data for key, data in partial.objects().items() if "fetched" not in key}
    messages = {f"{number} {topic}": payload for number, (topic, payload) in enumerate(partial.heard)}
    assert sum(key.startswith("updates/") for key in objects) == ROUNDS * (len(DEVICES) - 1)
    assert any(topic.endswith("/complete") for topic in messages)
    assert partial.logs()
    for place, data in {**objects, **messages, **partial.logs()}.items():
        for hidden in HIDDEN:
            assert hidden not in data, place


def test_frozen_arrays_from_the_bucket_replace_those_of_all_components(
    partial: Partial, rounds: list[RoundRecord]
) -> None:
    assert rounds
    fetched = partial.play("fetched", base=7, fetched=True)
    for record in fetched:
        assert {part.metrics["base"] for part in record.participants} == {7}
        assert record.round.replied == len(DEVICES)
    for thing in DEVICES:
        assert len(list((partial.testbed.folder / "cores" / thing).rglob("frozen/*.safetensors"))) == 1


def test_a_run_that_continues_another_has_its_private_arrays(
    partial: Partial, rounds: list[RoundRecord]
) -> None:
    assert rounds
    source = {"run": "partial", "round": ROUNDS}
    settings = {"task": "marked", "rounds": 1, "deadline_seconds": 60, "evaluate_last": False}
    partial.testbed.operator.act("start", "more", settings=settings, continue_from=source)
    wait_until(lambda: partial.testbed.operator.run("more").state is not RunState.RUNNING, "its end", 90)
    (record,) = partial.testbed.operator.rounds(partial.testbed.operator.run("more"))
    good = [part for part in record.participants if part.state is Participation.REPLIED]
    assert [part.metrics["head"] for part in good] == [ROUNDS] * (len(DEVICES) - 1)
