"""The table of a buffered run is lost or restored from a backup: no reply is counted twice."""

import copy
from typing import Any

import pytest

from cloud_functions.recovery import repair
from fedgrass.federation.rounds import Participation, State
from fedgrass.federation.runs import RunState
from tests.fakes.small_fleet import RUN, SmallFleet

pytestmark = pytest.mark.slow


def with_a_carried_reply() -> tuple[SmallFleet, str, Any, Any]:
    """Return a fleet that has closed two buffers, the second with a reply of a device asked in the first.

    Also that device, the first round, and a backup of the table from before the reply.
    """
    fleet = SmallFleet(3, mode="buffered", buffer_size=2, in_flight=3, rounds=5, schedule="by_hand")
    fleet.start()
    first = fleet.newest()
    slow, *fast = fleet.names
    for device in fast:
        fleet.reply(device, first)
    backup = copy.deepcopy((fleet.rounds._runs, fleet.rounds._rounds, fleet.rounds._participants))
    fleet.act("next")
    second = fleet.newest()
    fleet.reply(slow, first)
    fleet.reply(fast[0], second)
    closed = fleet.rounds.round(RUN, 2, 1)
    assert closed
    assert (closed.state, closed.staleness_max) == (State.CLOSED, 1)
    return fleet, slow, first, backup


def repaired(fleet: SmallFleet) -> list[str]:
    lines: list[str] = repair.act(fleet.cloud, {"action": "repair", "run": RUN})["lines"]
    return lines


def check_continues(fleet: SmallFleet, slow: str, first: Any) -> None:
    """Check that the reply counts no second time, and that the run completes."""
    assert fleet.part(slow, first).state is Participation.CARRIED
    if fleet.run().state is RunState.PAUSED:
        fleet.act("resume")
    fleet.act("next")
    fleet.reply(slow, first)
    assert fleet.newest().number == 3
    assert fleet.newest().replied == 0
    assert [verdict.counted for verdict in fleet.verdicts(slow)][-1] is True
    while fleet.run().state is RunState.RUNNING:
        for device, state in fleet.parts().items():
            if state is Participation.ASKED:
                fleet.reply(device)
        fleet.act("next") if fleet.run().state is RunState.RUNNING else None
    assert fleet.run().state is RunState.SUCCEEDED


@pytest.mark.parametrize(
    "lost", [{"runs": True, "rounds": True, "participants": True}, {"participants": True}]
)
def test_a_lost_table_is_rebuilt_with_the_devices_that_later_buffers_counted(lost: dict[str, bool]) -> None:
    fleet, slow, first, _ = with_a_carried_reply()
    fleet.rounds.lose(**lost)
    assert any("participant" in line for line in repaired(fleet))
    check_continues(fleet, slow, first)
    assert repaired(fleet) == ["nothing is missing"]


def test_a_table_restored_from_before_the_reply_is_brought_up_to_date() -> None:
    fleet, slow, first, backup = with_a_carried_reply()
    fleet.rounds._runs, fleet.rounds._rounds, fleet.rounds._participants = backup
    assert fleet.part(slow, first).state is Participation.ASKED
    assert any("counted in later buffers" in line for line in repaired(fleet))
    check_continues(fleet, slow, first)
