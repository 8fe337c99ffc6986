"""Small fleets in the situations that several tests of a round start from."""

from typing import Any

from fedgrass.federation.rounds import Participation, Round
from fedgrass.federation.runs import RunState
from tests.fakes.small_fleet import RUN, SmallFleet

ASKED, ACCEPTED, REPLIED = Participation.ASKED, Participation.ACCEPTED, Participation.REPLIED
DECLINED, FAILED, SILENT = Participation.DECLINED, Participation.FAILED, Participation.SILENT


def started(devices: int = 2, **settings: Any) -> SmallFleet:
    fleet = SmallFleet(devices=devices, **settings)
    fleet.start()
    return fleet


def everybody_replies(fleet: SmallFleet, value: float = 1.0) -> None:
    opened = fleet.newest()
    for device in fleet.names:
        fleet.reply(device, opened, value=value)


def failed(attempts: int = 2, **settings: Any) -> SmallFleet:
    """Return a fleet whose run has failed at round 1."""
    fleet = started(attempts=attempts, **settings)
    while fleet.run().state is RunState.RUNNING:
        fleet.pass_time(600)
        fleet.ring()
    assert fleet.run().state is RunState.FAILED
    return fleet


def stored(fleet: SmallFleet, number: int, attempt: int = 1) -> Round:
    found = fleet.rounds.round(RUN, number, attempt)
    assert found is not None
    return found


def a_fleet(devices: int = 6, count: int = 2, **settings: Any) -> tuple[SmallFleet, list[str]]:
    """Return a fleet whose round asks some of the devices, and their names."""
    fleet = SmallFleet(devices=devices, selection="random", count=count, **settings)
    fleet.start()
    return fleet, sorted(fleet.parts())


def first(fleet: SmallFleet) -> Round:
    found = fleet.rounds.round(RUN, 1, 1)
    assert found is not None
    return found


def newcomers(fleet: SmallFleet, cohort: list[str]) -> list[str]:
    return sorted(set(fleet.parts(first(fleet))) - set(cohort))


def work_heard(fleet: SmallFleet, device: str) -> list[int]:
    """Return the rounds that were announced to a device."""
    return [work.round for work in fleet.announced(device)]
