"""When the end of a stream from the nucleus means that the connection is lost."""

import itertools

import pytest

from components.runtime.greengrass_ipc import _Stream


def told_after(*steps: str) -> list[str]:
    told: list[str] = []
    stream = _Stream(lambda: told.append("lost"))
    for step in steps:
        getattr(stream, step)()
    return told


@pytest.mark.parametrize("steps", list(itertools.permutations(["opened", "ended"])))
def test_a_stream_that_ends_is_a_loss_whichever_is_heard_of_first(steps: tuple[str, str]) -> None:
    assert told_after(*steps) == ["lost"]


@pytest.mark.parametrize(
    "steps", [["opened"], ["ended"], ["close", "ended"], ["ended", "close"], ["opened", "close", "ended"]]
)
def test_a_stream_that_is_open_was_refused_or_was_closed_here_is_no_loss(steps: list[str]) -> None:
    assert told_after(*steps) == []
