"""A run's encodings: from its settings to each device's announcement and the file that it downloads."""

from typing import Any

import msgspec
import numpy as np
import pytest

from fedgrass.federation import encodings, messages, object_keys
from fedgrass.federation.errors import MessageError, SettingsError, UpdateRefused
from fedgrass.federation.messages.message_types import Encoding
from fedgrass.federation.rounds import State
from fedgrass.federation.settings_parser import parse_settings
from fedgrass.federation.weights import encode, sha256
from tests.fakes.memory_device import announcement
from tests.fakes.small_fleet import INITIAL, RUN, SmallFleet


def test_devices_are_told_how_to_decode_and_how_to_encode() -> None:
    fleet = SmallFleet(
        upload_encoding="top_k", upload_difference=True, top_k_fraction=0.05, download_encoding="bfloat16"
    )
    fleet.start()
    (heard,) = fleet.announced("thing-0")
    assert heard.upload == Encoding(kind="top_k", difference=True, fraction=0.05)
    assert heard.download == Encoding(kind="bfloat16")
    assert heard.model_key == "models/run-1/0.bfloat16.safetensors"


def test_a_run_that_says_nothing_sends_float32_both_ways() -> None:
    fleet = SmallFleet()
    fleet.start()
    (heard,) = fleet.announced("thing-0")
    assert heard.upload == heard.download == Encoding()
    assert heard.model_key == object_keys.model(RUN, 0)
    assert [key for key in fleet.bucket.objects if key.startswith("models/run-1/")] == [heard.model_key]


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "int8"])
def test_the_initial_model_lies_there_as_devices_download_it_and_as_it_is(kind: Any) -> None:
    fleet = SmallFleet(download_encoding=kind)
    fleet.start()
    (heard,) = fleet.announced("thing-0")
    file = fleet.bucket.objects[heard.model_key]
    assert (heard.model_sha256, heard.model_bytes) == (sha256(file), len(file))
    assert file == encodings.encode_model(encode(INITIAL), Encoding(kind=kind))
    assert fleet.bucket.objects[object_keys.model(RUN, 0)] == encode(INITIAL)
    assert fleet.newest().base_sha256 == sha256(encode(INITIAL))


def test_starting_again_keeps_the_file_that_is_there() -> None:
    fleet = SmallFleet(download_encoding="int8")
    first = fleet.start()
    assert fleet.start() == first


def test_the_next_round_announces_the_file_that_the_averager_wrote() -> None:
    fleet = SmallFleet(devices=1, download_encoding="int8")
    fleet.start()
    fleet.reply("thing-0", value=2.0)
    heard = fleet.announced("thing-0")[-1]
    encoded = fleet.bucket.objects["models/run-1/1.int8.safetensors"]
    assert (heard.model_key, heard.model_sha256, heard.model_bytes) == (
        "models/run-1/1.int8.safetensors",
        sha256(encoded),
        len(encoded),
    )
    assert heard.download == Encoding(kind="int8")
    arrays, _layout = encodings.decode_model(encoded, heard.download)
    assert fleet.model(1)["weight"].tolist() == [[2.0] * 3] * 2
    assert np.allclose(arrays["weight"], 2.0)
    assert fleet.newest().base_sha256 == sha256(fleet.bucket.objects[object_keys.model(RUN, 1)])


def test_a_model_that_the_download_cannot_hold_abandons_the_round_and_says_so() -> None:
    fleet = SmallFleet(devices=1, download_encoding="float16", on_abandoned="fail")
    fleet.start()
    fleet.reply("thing-0", value=1e6)
    assert fleet.newest().state is State.ABANDONED
    assert "cannot be sent to devices in the download_encoding float16" in fleet.newest().reason


def test_another_attempt_announces_the_same_file_again() -> None:
    fleet = SmallFleet(download_encoding="float16", deadline_seconds=30)
    fleet.start()
    fleet.pass_time(31)
    fleet.ring()
    first, again = fleet.announced("thing-0")
    assert (first.attempt, again.attempt) == (1, 2)
    assert (first.model_key, first.model_sha256) == (again.model_key, again.model_sha256)


def test_an_initial_model_that_the_encoding_cannot_hold_is_refused_at_the_start() -> None:
    fleet = SmallFleet(download_encoding="float16")
    fleet.bucket.write(object_keys.model(RUN, 0), encode({"w": np.array([1e6], np.float32)}))
    with pytest.raises(UpdateRefused, match="float16 holds at most"):
        fleet.start()
    assert fleet.rounds.run(RUN) is None


def test_a_model_whose_names_clash_with_scales_is_refused_at_the_start() -> None:
    fleet = SmallFleet(upload_encoding="int8")
    clash = {"w": np.ones(2, np.float32), "w:scale": np.ones(1, np.float32)}
    fleet.bucket.write(object_keys.model(RUN, 0), encode(clash))
    with pytest.raises(SettingsError, match="arrays 'w' and 'w:scale'"):
        fleet.start()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"upload_encoding": "zip"},
            "upload_encoding is 'zip': it takes one of: bfloat16, float16, float32",
        ),
        ({"download_encoding": "top_k"}, "download_encoding is 'top_k': it takes one of: bfloat16, float16"),
        ({"upload_encoding": "top_k"}, "upload_encoding is 'top_k', .*: set upload_difference to true"),
        ({"upload_difference": 1}, "upload_difference"),
        ({"top_k_fraction": 0}, "top_k_fraction"),
        ({"top_k_fraction": 0.51}, "top_k_fraction"),
    ],
)
def test_encodings_that_cannot_be_meant_are_refused_by_their_field(settings: Any, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        parse_settings({"task": "digits", **settings})


def test_an_encoding_is_short_in_an_announcement() -> None:
    text = messages.encode(announcement(upload=Encoding(kind="int8", difference=True)))
    assert b'"download":{},"upload":{"kind":"int8","difference":true}' in text


@pytest.mark.parametrize(
    ("encoding", "said"),
    [
        ({"upload": {"kind": "top_k"}}, "needs difference"),
        ({"upload": {"kind": "zip"}}, "Invalid enum value 'zip'"),
        ({"upload": {"kind": "top_k", "difference": True, "fraction": 0.7}}, "<= 0.5"),
        ({"download": {"difference": True}}, "cannot be downloaded as a difference"),
        ({"download": {"kind": "top_k", "difference": True}}, "cannot be downloaded as a difference"),
    ],
)
def test_an_announcement_with_an_encoding_that_cannot_be_meant_is_refused(encoding: Any, said: str) -> None:
    values = {"type": "work", **msgspec.to_builtins(announcement()), **encoding}
    for decode in (messages.decode_announce, lambda text: messages.decode(text, messages.Announcement)):
        with pytest.raises(MessageError, match=said):
            decode(msgspec.json.encode(values))
