"""A run that accepts partial trainings: what is announced, and how they count."""

import numpy as np
import pytest

from fedgrass.federation.errors import SettingsError
from fedgrass.federation.messages import Completion, decode
from fedgrass.federation.rounds import State
from fedgrass.federation.settings_parser import parse_settings
from tests.fakes.small_fleet import SmallFleet


def test_announcements_state_whether_the_run_accepts_partial_replies() -> None:
    for allowed in (True, False):
        fleet = SmallFleet(devices=1, allow_partial=allowed)
        fleet.start()
        assert fleet.announced("thing-0")[-1].allow_partial is allowed


def test_a_part_counts_by_the_examples_that_were_seen() -> None:
    fleet = SmallFleet(devices=2, allow_partial=True)
    fleet.start()
    first = fleet.newest()
    fleet.reply("thing-0", value=0.0, examples=30)
    fleet.reply("thing-1", value=4.0, examples=10, partial=True)
    assert fleet.model(1)["weight"].tolist() == [[1.0] * 3] * 2
    closed = fleet.rounds.round(first.run, first.number, first.attempt)
    assert closed is not None
    assert closed.state is State.CLOSED
    assert [(part.partial, part.examples) for part in fleet.rounds.participants(closed)] == [
        (False, 30),
        (True, 10),
    ]
    assert np.isfinite(closed.metrics["loss"])


def test_a_completion_of_a_device_that_knows_no_parts_is_whole() -> None:
    fleet = SmallFleet(devices=1)
    fleet.start()
    said = fleet.completion(fleet.newest(), b"x", "thing-0").replace(b'"partial":false,', b"")
    said = said.replace(b',"partial":false', b"")
    assert b"partial" not in said
    assert decode(said, Completion).partial is False


@pytest.mark.parametrize("value", ["yes", 1, None])
def test_whether_parts_are_taken_is_true_or_false(value: object) -> None:
    with pytest.raises(SettingsError, match="allow_partial"):
        parse_settings({"task": "digits", "allow_partial": value})
