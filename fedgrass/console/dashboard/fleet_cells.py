"""The devices of one round, each with its state, from the messages on its topics and from its rows.

A message is newer than the row that it leads to, and a row is right where a message was lost: so a row
replaces a state that comes before its own, and a final state of a row replaces any other.
"""

from collections import Counter
from collections.abc import Mapping

from fedgrass.console.dashboard.fleet_views import Cell, CellBlock, CellState
from fedgrass.federation.messages import Announcement, Completion, Status, Verdict
from fedgrass.federation.rounds import Participant, Participation

_OF_ROW: Mapping[Participation, CellState] = {
    Participation.ASKED: CellState.ASKED,
    Participation.ACCEPTED: CellState.ACCEPTED,
    Participation.REPLIED: CellState.REPLIED,
    Participation.REFUSED: CellState.REFUSED,
    Participation.DECLINED: CellState.DECLINED,
    Participation.FAILED: CellState.FAILED,
    Participation.SILENT: CellState.SILENT,
    Participation.LATE: CellState.LATE,
    # In buffered runs:
    Participation.HELD: CellState.REPLIED,
    Participation.CARRIED: CellState.REPLIED,
    Participation.OVERDUE: CellState.LATE,
    Participation.STALE: CellState.LATE,
}
_UNDER_WAY = (CellState.ASKED, CellState.ACCEPTED, CellState.TRAINING, CellState.UPLOADING)
_RANK = {state: rank for rank, state in enumerate(_UNDER_WAY)}
_FINAL_RANK = len(_UNDER_WAY)
# The most serious first: the state of a block of devices is the first of these that occurs. A block in which
# nothing went wrong has the state of its slowest device.
_BY_URGENCY = (
    CellState.FAILED,
    CellState.REFUSED,
    CellState.SILENT,
    CellState.LATE,
    CellState.DECLINED,
    *_UNDER_WAY,
    CellState.REPLIED,
)
_WORDS = {state: str(state.value) for state in CellState}
_WORST = tuple((_WORDS[state], state) for state in _BY_URGENCY)
_ASKED, _REPLIED = _WORDS[CellState.ASKED], _WORDS[CellState.REPLIED]
_STATUS = {
    "accepted": CellState.ACCEPTED,
    "progress": CellState.TRAINING,
    "declined": CellState.DECLINED,
    "failed": CellState.FAILED,
}
_LATE = "late"  # begins the reason of a verdict on a reply that came after the round had ended
_SETTLED_MILLISECONDS = 15_000  # after a final message its row is final too, or the cloud has not counted it


class _DeviceCell:
    __slots__ = ("announced_at", "changed_at", "progress", "reason", "received_at", "shown", "state", "word")

    def __init__(self, announced_at: int) -> None:
        self.state = CellState.ASKED
        self.word = _ASKED  # of the state: a member of an enumeration is slow to count
        self.progress = 0.0
        self.reason = ""
        self.announced_at = announced_at
        self.received_at = 0
        self.changed_at = 0
        self.shown: Cell | None = None  # as it was last shown, until it changes


class RoundCells:
    """The cells of one attempt at a round. Times are milliseconds since the epoch."""

    def __init__(self, number: int, attempt: int) -> None:
        self.number = number
        self.attempt = attempt
        self._cells: dict[str, _DeviceCell] = {}
        self._counts: Counter[str] = Counter()
        self._order: list[str] | None = None

    def __len__(self) -> int:
        """Return how many devices are known."""
        return len(self._cells)

    def is_of(self, number: int, attempt: int) -> bool:
        """Return whether the cells are those of this attempt."""
        return (self.number, self.attempt) == (number, attempt)

    def receive(self, device: str, message: Announcement | Verdict | Status | Completion, at: int) -> bool:
        """Process a message of this attempt that arrived at ``at``; return whether a cell changed."""
        cell = self._cell(device, at)
        match message:
            case Announcement():
                cell.announced_at, cell.shown = message.announced_at, None
                return True  # a repeated announcement changes nothing that the device has done since
            case Status():
                state = _STATUS[message.state]
                if state is CellState.TRAINING and message.progress >= 1:
                    state = CellState.UPLOADING
                return self._move(cell, state, at, progress=message.progress, reason=message.reason)
            case Completion():
                cell.received_at = cell.received_at or at
                return self._move(cell, CellState.REPLIED, at, progress=1.0)
        if message.counted:
            return self._move(cell, CellState.REPLIED, at, progress=1.0)
        state = CellState.LATE if message.reason.startswith(_LATE) else CellState.REFUSED
        return self._set(cell, state, at, cell.progress, message.reason)

    def read(self, part: Participant, at: int) -> bool:
        """Process the row of a device, read at ``at``; return whether its cell changed."""
        cell = self._cell(part.device, part.announced_at)
        cell.announced_at = part.announced_at or cell.announced_at
        cell.received_at = part.received_at or cell.received_at
        cell.shown = None
        state = _OF_ROW[part.state]
        is_final, is_over = state not in _RANK, cell.state not in _RANK
        if is_over and not is_final:
            # The device has sent its final message, and the cloud has not counted it.
            if at - cell.changed_at < _SETTLED_MILLISECONDS or cell.state is not CellState.REPLIED:
                return False
            state = CellState.UPLOADING
        elif not is_final and _RANK[state] <= _RANK[cell.state]:
            return False
        if (state, part.reason) == (cell.state, cell.reason):
            return False
        progress = 1.0 if state is CellState.REPLIED else cell.progress
        return self._set(cell, state, at, progress, part.reason)

    def counts(self) -> dict[str, int]:
        """Return the devices by state, in the order of the states; states without devices are left out."""
        return _counts(self._counts)

    def cells(self) -> tuple[Cell, ...]:
        """Return all cells by device name."""
        cells = self._cells
        return tuple(cells[device].shown or _shown(device, cells[device]) for device in self._sorted())

    def blocks(self, most: int) -> tuple[CellBlock, ...]:
        """Return the devices, by name, in at most ``most`` blocks of nearly the same number of devices."""
        names = self._sorted()
        count = min(len(names), max(1, most))
        blocks = []
        for number in range(count):
            some = names[number * len(names) // count : (number + 1) * len(names) // count]
            cells = [self._cells[name] for name in some]
            counted = Counter([cell.word for cell in cells])
            progress = sum([1.0 if cell.word == _REPLIED else cell.progress for cell in cells])
            blocks.append(
                CellBlock(
                    first=some[0],
                    last=some[-1],
                    devices=len(some),
                    counts=_counts(counted),
                    worst=next(state for word, state in _WORST if word in counted),
                    progress=progress / len(some),
                )
            )
        return tuple(blocks)

    def _cell(self, device: str, announced_at: int) -> _DeviceCell:
        if device not in self._cells:
            self._cells[device] = _DeviceCell(announced_at)
            self._counts[_ASKED] += 1
            self._order = None
        return self._cells[device]

    def _sorted(self) -> list[str]:
        if self._order is None:
            self._order = sorted(self._cells)
        return self._order

    def _move(
        self, cell: _DeviceCell, state: CellState, at: int, *, progress: float = 0.0, reason: str = ""
    ) -> bool:
        """Move a cell forward; a message that arrives after a later one changes nothing."""
        rank, known = _RANK.get(state, _FINAL_RANK), _RANK.get(cell.state, _FINAL_RANK)
        came_back = cell.state is CellState.SILENT
        if (known == _FINAL_RANK or rank < known) and not came_back:
            return False
        if state is cell.state and progress <= cell.progress:
            return False
        return self._set(cell, state, at, max(progress, cell.progress), reason)

    def _set(self, cell: _DeviceCell, state: CellState, at: int, progress: float, reason: str) -> bool:
        word = _WORDS[state]
        self._counts[cell.word] -= 1
        self._counts[word] += 1
        cell.word = word
        cell.state, cell.progress, cell.reason, cell.changed_at = state, progress, reason, at
        cell.shown = None
        return True


def _shown(device: str, cell: _DeviceCell) -> Cell:
    seconds = (cell.received_at - cell.announced_at) / 1000 if cell.received_at else 0.0
    cell.shown = Cell(
        device=device,
        state=cell.state,
        progress=cell.progress,
        reason=cell.reason,
        announced_at=cell.announced_at,
        received_at=cell.received_at,
        turnaround_seconds=max(0.0, seconds),
    )
    return cell.shown


def _counts(counted: Mapping[str, int]) -> dict[str, int]:
    return {word: counted[word] for word in _WORDS.values() if counted.get(word)}
