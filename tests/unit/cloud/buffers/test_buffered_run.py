"""A buffered run: devices train at their own pace, and every few replies make a new model."""

from typing import Any

from fedgrass.federation.rounds import Participation, State, staleness_of, started_from, update_of
from fedgrass.federation.runs import RunState
from tests.fakes.small_fleet import RUN, SmallFleet

ASKED, CARRIED, REPLIED = Participation.ASKED, Participation.CARRIED, Participation.REPLIED


def buffered(devices: int = 4, buffer_size: int = 2, in_flight: int = 3, **settings: Any) -> SmallFleet:
    """Return a fleet with a buffered run that has started."""
    fleet = SmallFleet(
        devices, mode="buffered", buffer_size=buffer_size, in_flight=in_flight, rounds=3, **settings
    )
    fleet.start()
    return fleet


def training(fleet: SmallFleet) -> list[str]:
    """Return the devices that were asked in the newest round."""
    return [device for device, state in fleet.parts().items() if state is ASKED]


def test_a_buffer_closes_with_enough_replies_and_the_next_one_counts_a_stale_reply() -> None:
    fleet = buffered(devices=3)
    first = fleet.newest()
    slow, *fast = training(fleet)
    assert (first.state, first.asked, first.needed) == (State.OPEN, 3, 2)
    for device in fast:
        fleet.reply(device, first)

    second = fleet.newest()
    assert (second.number, second.state, second.base) == (2, State.OPEN, 1)
    assert (second.in_flight_before, second.asked, second.outstanding) == (1, 2, 3)
    assert sorted(training(fleet)) == sorted(fast)  # announced the newest model at once

    fleet.reply(slow, first)

    part = fleet.part(slow)
    assert (part.state, fleet.newest().replied, fleet.parts(first)[slow]) == (REPLIED, 1, CARRIED)
    assert update_of(fleet.newest(), part) == (1, 1)
    assert (started_from(fleet.newest(), part), staleness_of(fleet.newest(), part)) == (0, 1)
    assert [verdict.counted for verdict in fleet.verdicts(slow)] == [True]

    fleet.reply(fast[0])
    closed = fleet.rounds.round(RUN, 2, 1)
    assert closed is not None
    assert (closed.state, closed.good, closed.staleness_max, closed.staleness_mean) == (
        State.CLOSED,
        2,
        1,
        0.5,
    )


def test_a_buffered_run_ends_after_its_rounds() -> None:
    fleet = buffered()
    while fleet.run().state is RunState.RUNNING:
        fleet.reply(training(fleet)[0])
    assert (fleet.run().state, fleet.run().round) == (RunState.SUCCEEDED, 3)
