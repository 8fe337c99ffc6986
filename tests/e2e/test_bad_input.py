"""Every invalid message and update is refused with its reason, and the round continues."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from components.trainer.tasks.noise import Noise
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.runs import RunState
from fedgrass.federation.settings_parser import parse_settings
from fedgrass.federation.weights import decode, encode
from tests.e2e.conftest import FLEET, Watched
from tests.e2e.handmade import HandmadeDevice
from tests.e2e.processes import wait_until


@pytest.fixture(scope="module")
def watched(make_site: Callable[..., Watched]) -> Watched:
    return make_site(1)


@pytest.fixture(scope="module")
def handmade(watched: Watched, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HandmadeDevice]:
    """A second device of the fleet, which sends heartbeats like the first."""
    with HandmadeDevice(watched.testbed, "handmade", tmp_path_factory.mktemp("thing"), FLEET) as device:
        device.heartbeat()
        wait_until(lambda: len(watched.testbed.operator.devices()) == 2, "the handmade device's registration")
        yield device


def model_of(watched: Watched, run: str, number: int) -> dict[str, np.ndarray]:
    return {
        name: np.asarray(array) for name, array in decode(watched.testbed.operator.model(run, number)).items()
    }


def test_bad_messages_are_refused_by_name_and_the_round_goes_on(
    watched: Watched, handmade: HandmadeDevice, tmp_path_factory: pytest.TempPathFactory
) -> None:
    watched.start("messages")
    work = watched.announcement("handmade", "messages")
    good = encode(model_of(watched, "messages", 0))

    handmade.say("complete", b"what a day")
    watched.wait_for_line("messages", "handmade", "refused", "not JSON")
    handmade.say("complete", handmade.completion(good, work, version=7))
    watched.wait_for_line("messages", "handmade", "refused", "version 7", "version 1")
    handmade.say("complete", handmade.completion(good, work, examples=0))
    watched.wait_for_line("messages", "handmade", "refused", "examples")
    handmade.say("complete", handmade.completion(good, work, attempt=9))
    watched.wait_for_line("messages", "handmade", "refused", "no round messages/1/9")
    handmade.say("complete", handmade.completion(good, work, announced_at=1))
    watched.wait_for_line("messages", "handmade", "refused", "announcement")
    handmade.say("complete", b"{" + b" " * 5000 + b"}")
    watched.wait_for_line("messages", "handmade", "refused", "4096")
    handmade.say("complete", handmade.completion(good, work), as_thing="device-1")
    watched.wait_for_line("messages", "device-1", "refused", "client 'handmade'")
    with HandmadeDevice(watched.testbed, "stranger", tmp_path_factory.mktemp("thing"), FLEET) as stranger:
        stranger.say("complete", stranger.completion(good, work))
        watched.wait_for_line("messages", "stranger", "refused", "was not asked")

    handmade.upload(good, work)
    handmade.say("complete", handmade.completion(good, work))
    assert watched.ended("messages").state is RunState.SUCCEEDED
    closed = watched.rounds("messages")[0].round
    assert (closed.asked, closed.replied, closed.refused) == (2, 2, 0)

    handmade.say("complete", handmade.completion(good, work, checksum="0" * 32))
    watched.wait_for_line("messages", "handmade", "refused", "already REPLIED")


def test_a_reply_to_a_closed_round_is_late_and_counted_as_such(
    watched: Watched, handmade: HandmadeDevice
) -> None:
    handmade.heartbeat()
    watched.start("late", threshold=0.5)
    work = watched.announcement("handmade", "late")
    assert watched.ended("late").state is RunState.SUCCEEDED
    data = encode(model_of(watched, "late", 0))
    handmade.upload(data, work)
    handmade.say("complete", handmade.completion(data, work))
    watched.wait_for_line("late", "handmade", "refused", "late", "CLOSED")
    closed = watched.rounds("late")[0].round
    assert (closed.replied, closed.late) == (1, 1)


def _edited(**changes: Any) -> Callable[[dict[str, np.ndarray]], bytes]:
    def edit(model: dict[str, np.ndarray]) -> bytes:
        return safetensors.numpy.save({name: a for name, a in {**model, **changes}.items() if a is not None})

    return edit


def _with_nan(model: dict[str, np.ndarray]) -> bytes:
    bias = model["bias"].copy()
    bias[7] = np.nan
    return encode({**model, "bias": bias})


BAD_UPDATES = {
    "missing": (_edited(bias=None), ["'bias'", "missing"]),
    "extra": (_edited(surprise=np.zeros(3, np.float32)), ["'surprise'", "not in the model"]),
    "reshaped": (_edited(bias=np.zeros((2, 3), np.float32)), ["'bias'", "shape (2, 3)"]),
    "retyped": (_edited(bias=np.zeros(2500, np.float64)), ["'bias'", "F64"]),
    "infinite": (_with_nan, ["'bias'", "not finite", "(7,)"]),
    "truncated": (lambda model: encode(model)[:-1000], ["bytes"]),
    "enormous": (lambda _: (10 * 1024**3).to_bytes(8, "little") + b"{}", ["header claims 10737418240"]),
    "no-file": (lambda _: b"", ["0 bytes"]),
}


@pytest.mark.parametrize("kind", BAD_UPDATES)
def test_a_bad_update_is_refused_by_name_and_the_round_closes_without_it(
    watched: Watched, handmade: HandmadeDevice, kind: str
) -> None:
    spoil, words = BAD_UPDATES[kind]
    run = f"update-{kind}"
    handmade.heartbeat()
    watched.start(run)
    work = watched.announcement("handmade", run)
    data = spoil(model_of(watched, run, 0))
    handmade.upload(data, work)
    handmade.say("complete", handmade.completion(data, work))
    watched.wait_for_line(run, "handmade", "update refused", *words)
    assert watched.ended(run).state is RunState.SUCCEEDED
    record = watched.rounds(run)[0]
    assert (record.round.replied, record.round.refused) == (2, 1)
    (honest,) = [reply for reply in record.participants if reply.device == "device-1"]
    change = np.float32(honest.train_metrics["change"])
    before, after = model_of(watched, run, 0), model_of(watched, run, 1)
    for name, array in before.items():
        np.testing.assert_allclose(after[name], array + change, atol=1e-6)


def test_an_update_that_differs_from_its_completion_is_refused(
    watched: Watched, handmade: HandmadeDevice
) -> None:
    handmade.heartbeat()
    watched.start("checksum")
    work = watched.announcement("handmade", "checksum")
    data = encode(model_of(watched, "checksum", 0))
    handmade.upload(data, work)
    handmade.say("complete", handmade.completion(data, work, checksum="f" * 32))
    watched.wait_for_line("checksum", "handmade", "update refused", "f" * 32)
    assert watched.ended("checksum").state is RunState.SUCCEEDED


def test_a_model_with_another_hash_than_announced_is_not_trained_on(watched: Watched) -> None:
    watched.start("hash", threshold=0.5)
    work = watched.announcement("device-1", "hash")
    watched.ended("hash")
    forged = {**work, "run": "forged", "model_sha256": "ab" * 32}
    topic = f"fedgrass/{FLEET}/clients/device-1/announce"
    watched.testbed.cloud.client("iot-data").publish(topic=topic, qos=1, payload=json.dumps(forged).encode())

    def failed() -> list[str]:
        said = [words.decode() for on, words in watched.heard if on.endswith("/device-1/status")]
        return [words for words in said if "forged" in words and '"failed"' in words]

    wait_until(failed, "the device's refusal of the model")
    assert "ab" * 32 in failed()[0]
    assert str(work["model_sha256"]) in failed()[0]


def test_another_initial_model_under_the_name_of_a_run_is_refused(watched: Watched) -> None:
    watched.start("taken")
    other = Noise().initial_weights(seed=2)
    with pytest.raises(SettingsError, match=r"another model exists at models/taken/0.safetensors: choose"):
        watched.testbed.operator.start("taken", parse_settings({"task": "noise"}), other)
