"""A small fleet with a buffered run, for tests."""

from typing import Any

from fedgrass.federation.rounds import Participation, Round, State
from tests.fakes.small_fleet import RUN, SmallFleet


def buffered(devices: int = 4, buffer_size: int = 2, in_flight: int = 3, **settings: Any) -> SmallFleet:
    """Return a fleet with a buffered run that has started."""
    fleet = SmallFleet(
        devices,
        **{
            "mode": "buffered",
            "buffer_size": buffer_size,
            "in_flight": in_flight,
            "rounds": 30,
            "accept_seconds": 0,
            **settings,
        },
    )
    fleet.start()
    return fleet


def training(fleet: SmallFleet) -> list[str]:
    """Return the devices that were asked in the newest round and have not replied."""
    at_work = {Participation.ASKED, Participation.ACCEPTED}
    return [device for device, state in fleet.parts().items() if state in at_work]


def buffer(fleet: SmallFleet, number: int, attempt: int = 1) -> Round:
    """Return a round."""
    found = fleet.rounds.round(RUN, number, attempt)
    assert found
    return found


def close(fleet: SmallFleet, *, leave: str = "") -> Round:
    """Let devices reply until the newest buffer closes; ``leave`` keeps training. Return that buffer."""
    number = fleet.newest().number
    while fleet.newest().number == number and fleet.newest().state is State.OPEN:
        waiting = [device for device in training(fleet) if device != leave]
        if not waiting:
            break
        fleet.reply(waiting[0])
    return buffer(fleet, number)
