"""The state of each device of a round, from its messages and its row."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedgrass.console.dashboard.fleet_cells import RoundCells
from fedgrass.console.dashboard.fleet_views import CellState
from fedgrass.federation.messages import Announcement, Completion, Status, Verdict
from fedgrass.federation.rounds import Participant, Participation

NOW = 1_700_000_000_000
OF: dict[str, Any] = {"run": "apples", "round": 3, "attempt": 1}
ASKED = Announcement(
    **OF,
    work="train",
    task="digits",
    announced_at=NOW,
    deadline_seconds=60,
    bucket="b",
    model_key="k",
    model_sha256="0" * 64,
    model_bytes=1,
)
ACCEPTED = Status(**OF, state="accepted")
DONE = Completion(**OF, round_id="apples/3/1", announced_at=NOW, bytes=1, checksum="0" * 32, examples=1)


def progress(share: float) -> Status:
    return Status(**OF, state="progress", progress=share)


def row(state: Participation, device: str = "d", **fields: Any) -> Participant:
    return Participant(device=device, state=state, announced_at=NOW, **fields)


def one(cells: RoundCells) -> tuple[str, float, str]:
    (cell,) = cells.cells()
    return str(cell.state), cell.progress, cell.reason


def test_a_device_moves_through_the_states_that_its_messages_name() -> None:
    cells = RoundCells(3, 1)
    seen = []
    for message in (ASKED, ACCEPTED, progress(0.4), progress(1.0), DONE):
        cells.receive("d", message, NOW + 5000)
        seen.append(one(cells)[0])
    assert seen == ["asked", "accepted", "training", "uploading", "replied"]
    assert cells.cells()[0].turnaround_seconds == 5


@pytest.mark.parametrize(
    ("message", "state", "reason"),
    [
        (Status(**OF, state="declined", reason="on battery"), "declined", "on battery"),
        (Status(**OF, state="failed", reason="no memory"), "failed", "no memory"),
        (
            Verdict(**OF, counted=False, reason="late: this attempt is CLOSED"),
            "late",
            "late: this attempt is CLOSED",
        ),
        (Verdict(**OF, counted=False, reason="checksum"), "refused", "checksum"),
        (Verdict(**OF, counted=True), "replied", ""),
    ],
)
def test_the_end_of_a_device_s_work_has_its_state_and_reason(
    message: Status | Verdict, state: str, reason: str
) -> None:
    cells = RoundCells(3, 1)
    cells.receive("d", ASKED, NOW)
    cells.receive("d", message, NOW)
    assert (one(cells)[0], one(cells)[2]) == (state, reason)


def test_a_reply_that_is_refused_later_is_shown_as_refused() -> None:
    cells = RoundCells(3, 1)
    cells.receive("d", DONE, NOW)
    cells.receive("d", Verdict(**OF, counted=False, reason="not finite"), NOW)
    assert one(cells) == ("refused", 1.0, "not finite")


def test_messages_that_come_doubled_or_late_change_nothing() -> None:
    cells = RoundCells(3, 1)
    cells.receive("d", progress(0.6), NOW)
    for message in (ACCEPTED, progress(0.2), progress(0.6)):
        assert not cells.receive("d", message, NOW)
    cells.receive("d", DONE, NOW)
    assert not cells.receive("d", progress(0.9), NOW)
    assert one(cells) == ("replied", 1.0, "")


def test_a_row_completes_what_no_message_said() -> None:
    cells = RoundCells(3, 1)
    cells.read(row(Participation.ACCEPTED), NOW)
    assert one(cells)[0] == "accepted"
    cells.read(row(Participation.SILENT), NOW)
    assert one(cells)[0] == "silent"
    cells.receive("d", ACCEPTED, NOW)  # it has come back
    assert one(cells)[0] == "accepted"


def test_an_older_row_does_not_undo_what_a_message_said() -> None:
    cells = RoundCells(3, 1)
    cells.receive("d", progress(0.5), NOW)
    assert not cells.read(row(Participation.ACCEPTED), NOW)
    cells.receive("d", DONE, NOW)
    assert not cells.read(row(Participation.ACCEPTED), NOW + 14_000)
    assert one(cells)[0] == "replied"


def test_a_completion_that_the_cloud_has_not_counted_for_long_is_shown_as_uploading() -> None:
    cells = RoundCells(3, 1)
    cells.receive("d", DONE, NOW)
    assert cells.read(row(Participation.ACCEPTED), NOW + 15_000)
    assert one(cells)[0] == "uploading"


@pytest.mark.parametrize("state", list(Participation))
def test_every_state_of_a_row_is_shown(state: Participation) -> None:
    cells = RoundCells(3, 1)
    cells.read(row(state), NOW)
    assert one(cells)[0] in {str(each) for each in CellState}


def test_a_block_has_the_most_serious_state_of_its_devices() -> None:
    cells = RoundCells(3, 1)
    for number in range(9):
        cells.read(row(Participation.REPLIED, f"d{number}"), NOW)
    cells.receive("d5", Verdict(**OF, counted=False, reason="not finite"), NOW)
    first, second, third = cells.blocks(3)
    assert (first.first, first.last, first.devices, first.worst, first.progress) == (
        "d0",
        "d2",
        3,
        "replied",
        1,
    )
    assert (second.worst, second.counts) == ("refused", {"replied": 2, "refused": 1})
    assert third.counts == {"replied": 3}


@given(st.integers(0, 300), st.integers(-1, 400))
def test_blocks_have_every_device_once_and_are_not_too_many(devices: int, most: int) -> None:
    cells = RoundCells(3, 1)
    for number in range(devices):
        cells.read(row(Participation.ASKED, f"d{number:03}"), NOW)
    blocks = cells.blocks(most)
    assert len(blocks) <= max(1, most)
    assert sum(block.devices for block in blocks) == devices
    assert all(block.devices for block in blocks)
    sizes = {block.devices for block in blocks}
    assert not sizes or max(sizes) - min(sizes) <= 1


MESSAGES = st.sampled_from(
    [
        ASKED,
        ACCEPTED,
        progress(0.5),
        progress(1.0),
        DONE,
        Status(**OF, state="failed", reason="x"),
        Status(**OF, state="declined", reason="x"),
        Verdict(**OF, counted=True),
        Verdict(**OF, counted=False, reason="late: x"),
    ]
)
EVENTS = st.lists(st.tuples(st.sampled_from("abc"), MESSAGES | st.sampled_from(list(Participation))))


@given(EVENTS)
def test_the_counts_are_those_of_the_cells(events: list[tuple[str, Any]]) -> None:
    cells = RoundCells(3, 1)
    for at, (device, event) in enumerate(events):
        if isinstance(event, Participation):
            cells.read(row(event, device), NOW + 10_000 * at)
        else:
            cells.receive(device, event, NOW + 10_000 * at)
    shown = [str(cell.state) for cell in cells.cells()]
    assert cells.counts() == {
        state: shown.count(state) for state in dict.fromkeys(map(str, CellState)) if state in shown
    }
    assert sum(cells.counts().values()) == len(cells) == sum(block.devices for block in cells.blocks(2))
