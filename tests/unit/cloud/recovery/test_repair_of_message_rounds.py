"""Lost rows of a run with a ServerApp are rebuilt from manifests and lists of messages, or refused."""

import msgspec
import pytest

from cloud_functions.recovery import repair
from fedgrass.federation import object_keys
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.rounds import Participation, State
from fedgrass.federation.runs import RunState
from tests.fakes.message_fleet import MessageFleet, started
from tests.fakes.small_fleet import RUN, crash_at_every_call

ALL = {"runs": True, "rounds": True, "participants": True}


def after_rounds() -> MessageFleet:
    """Return a fleet with the rounds 1 CLOSED, 2 ABANDONED, 3 OPEN and 4 CLOSED."""
    fleet = started(devices=3)
    fleet.push(group="1")
    fleet.all_answer()
    fleet.push(group="2")
    for device in fleet.names:
        fleet.status(device, "declined", reason="on battery")
    fleet.push(["thing-0"], group="3")
    fleet.push(["thing-1"], group="4")
    fleet.answers("thing-1")
    assert states(fleet) == [State.CLOSED, State.ABANDONED, State.OPEN, State.CLOSED]
    assert fleet.run().published == 2
    return fleet


def states(fleet: MessageFleet) -> list[State]:
    return [fleet.sent(number).state for number in range(1, fleet.run().round + 1)]


def repaired(fleet: MessageFleet, **event: object) -> list[str]:
    lines: list[str] = repair.act(fleet.cloud, {"action": "repair", "run": RUN, **event})["lines"]
    return lines


def test_nothing_is_missing_of_a_run_with_an_open_round() -> None:
    fleet = after_rounds()
    before = fleet.rounds.rows()
    assert repaired(fleet) == ["nothing is missing"]
    assert fleet.rounds.rows() == before


def test_all_rows_come_back_and_a_round_without_manifest_counts_as_abandoned() -> None:
    fleet = after_rounds()
    closed = {number: fleet.sent(number) for number in (1, 4)}
    fleet.rounds.lose(**ALL)
    lines = repaired(fleet)
    assert states(fleet) == [State.CLOSED, State.ABANDONED, State.ABANDONED, State.CLOSED]
    assert {number: fleet.sent(number) for number in closed} == closed
    assert fleet.sent(3).reason == "rebuilt from its cohort; who replied is not known"
    assert (fleet.sent(3).aim, fleet.sent(3).asked, fleet.parts(fleet.sent(3))) == (
        "train 3",
        1,
        {"thing-0": Participation.ASKED},
    )
    assert fleet.parts(fleet.sent(1)) == dict.fromkeys(fleet.names, Participation.REPLIED)
    assert (fleet.run().state, fleet.run().published) == (RunState.PAUSED, 4)
    assert "wrote round 4 attempt 1: 1 participant" in lines
    assert lines[-1] == "`fedgrass run resume run-1` continues the run, `cancel` ends it"


def test_the_repaired_run_goes_on_with_its_server_app() -> None:
    fleet = after_rounds()
    fleet.rounds.lose(**ALL)
    repaired(fleet)
    fleet.request("resume")
    assert fleet.push(group="5")["round"] == 5
    fleet.all_answer()
    assert (fleet.sent(5).state, fleet.run().published) == (State.CLOSED, 5)
    fleet.answers("thing-0", number=3)
    assert fleet.verdicts("thing-0")[-1].reason == "late: this attempt is ABANDONED"


def test_a_dry_run_writes_nothing() -> None:
    fleet = after_rounds()
    fleet.rounds.lose(**ALL)
    assert "would write the run: PAUSED" in repaired(fleet, dry_run=True)
    assert fleet.rounds.rows() == {}


def test_a_repair_may_crash_at_every_call() -> None:
    fleet = after_rounds()
    fleet.rounds.lose(**ALL)
    assert crash_at_every_call(fleet, repaired) > 10
    assert states(fleet) == [State.CLOSED, State.ABANDONED, State.ABANDONED, State.CLOSED]


def test_the_row_of_one_round_comes_back_while_the_others_go_on() -> None:
    fleet = after_rounds()
    lost = fleet.sent(4)
    fleet.rounds.lose_round(lost)
    repaired(fleet)
    assert (fleet.sent(4), fleet.sent(3).state) == (lost, State.OPEN)
    fleet.answers("thing-0", number=3)
    assert (fleet.sent(3).state, fleet.run().published) == (State.CLOSED, 4)


def test_the_row_of_the_run_comes_back_and_its_open_round_still_counts() -> None:
    fleet = after_rounds()
    fleet.rounds.lose(runs=True)
    repaired(fleet)
    assert (fleet.run().state, fleet.run().round, fleet.run().published) == (RunState.PAUSED, 4, 2)
    fleet.answers("thing-0", number=3)
    assert (fleet.sent(3).state, fleet.run().published) == (State.CLOSED, 4)


def test_lost_participants_of_a_closed_round_come_back_and_those_of_an_open_one_are_named() -> None:
    fleet = after_rounds()
    fleet.rounds.lose(participants=True)
    lines = repaired(fleet)
    assert fleet.parts(fleet.sent(4)) == {"thing-1": Participation.REPLIED}
    assert "round 3 attempt 1: 1 participant cannot be rebuilt" in lines


def test_a_round_of_which_nothing_is_left_is_refused_by_name() -> None:
    fleet = after_rounds()
    fleet.rounds.lose_round(fleet.sent(2))
    del fleet.bucket.objects[object_keys.messages(RUN, 2)]
    with pytest.raises(
        SettingsError,
        match=r"round 2 of run 'run-1' cannot be rebuilt: the bucket lacks the list of its messages"
        r" rounds/run-1/2\.messages\.json",
    ):
        repaired(fleet)


def test_a_table_that_was_restored_to_before_some_rounds_learns_of_them() -> None:
    fleet = started(devices=3)
    fleet.push(group="1")
    older = (fleet.run(), fleet.sent(1), [fleet.part(device) for device in fleet.names])
    fleet.all_answer()
    fleet.push(group="2")
    fleet.all_answer()
    fleet.rounds.lose(**ALL)
    run, opened, parts = older
    fleet.rounds.restore_run(run)
    fleet.rounds.restore_round(opened)
    fleet.rounds.restore_participants(opened, parts)
    repaired(fleet)
    assert states(fleet) == [State.CLOSED, State.CLOSED]
    assert fleet.parts(fleet.sent(1)) == dict.fromkeys(fleet.names, Participation.REPLIED)
    assert (fleet.run().round, fleet.run().published) == (2, 2)


def test_a_restored_table_whose_later_rounds_were_abandoned_is_noticed_by_their_lists() -> None:
    fleet = started(devices=1)
    before = fleet.run()
    for _ in range(2):
        fleet.push()
        fleet.status("thing-0", "declined")
    fleet.rounds.lose(**ALL)
    fleet.rounds.restore_run(before)
    repaired(fleet)
    assert states(fleet) == [State.ABANDONED, State.ABANDONED]


def test_the_list_of_the_next_round_alone_is_no_lost_round() -> None:
    fleet = after_rounds()
    fleet.bucket.write(object_keys.messages(RUN, 5), b"about to be sent")
    assert repaired(fleet) == ["nothing is missing"]


def test_a_round_that_closes_otherwise_than_the_bucket_knows_pauses_the_run() -> None:
    fleet = started(devices=1)
    fleet.push()
    opened, part, run = fleet.sent(1), fleet.part("thing-0"), fleet.run()
    fleet.answers("thing-0")
    fleet.rounds.lose(**ALL)
    fleet.rounds.restore_run(run)
    fleet.rounds.restore_round(opened)
    fleet.rounds.restore_participants(opened, [part])
    fleet.answers("thing-0", data=b"another")
    assert fleet.run().state is RunState.PAUSED
    assert "`fedgrass run repair run-1`" in fleet.run().reason
    repaired(fleet)
    kept = msgspec.json.decode(fleet.bucket.objects[object_keys.round_manifest(RUN, 1)])
    assert fleet.sent(1).closed_at == kept["round"]["closed_at"]


def test_an_ended_run_whose_round_was_left_open_is_settled_by_the_sweep() -> None:
    fleet = after_rounds()
    fleet.rounds.change_run(fleet.run(), state=RunState.SUCCEEDED, published=4)
    fleet.deliver({"sweep": {}})
    assert states(fleet) == [State.CLOSED, State.ABANDONED, State.ABANDONED, State.CLOSED]
    assert fleet.rounds.unsettled() == []
