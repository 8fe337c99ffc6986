"""A stack's data and actions for the dashboard, without a stack: a fleet in memory."""

import math
from collections import Counter
from collections.abc import Sequence

import msgspec

from fedgrass.console.dashboard.fleet_views import (
    ActionLine,
    AlarmLine,
    Cell,
    CellBlock,
    CellState,
    DeadLetterLine,
    DeviceLine,
    DevicesPage,
    DeviceView,
    FleetCounts,
    ModelLine,
    Overview,
    RoundView,
    RunLine,
    RunView,
    Turnaround,
)
from fedgrass.console.dashboard.pages.page_actions import AliasLine
from fedgrass.federation.errors import SettingsError

START = 1_790_000_000_000  # milliseconds since the epoch
HOSTILE = (
    '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'
    "{{constructor.constructor('window.hacked=1')()}}"
)


class FakeFleet:
    """Implements ``FleetSource`` from values in memory, which tests replace."""

    def __init__(self, devices: int = 12, rounds: int = 8, name: str = "fedgrass") -> None:
        self.version = 1
        self.name = name
        self.cells = tuple(cell(at) for at in range(devices))
        self.rounds = tuple(closed_round(number, devices) for number in range(1, rounds))
        self.open_round: RoundView | None = open_round(rounds, devices)
        self.line = RunLine(
            name="digits-7", state="RUNNING", task="digits", round=rounds, rounds=rounds + 4, started_at=START
        )
        self.lines = tuple(device_line(at) for at in range(devices))
        self.connected = True
        self.watched: Counter[str] = Counter()
        self.refreshed = 0
        self.closed = False

    def change(self) -> None:
        """Let pages notice a change."""
        self.version += 1

    def start(self) -> None:
        """Nothing has to be read."""

    def close(self) -> None:
        self.closed = True

    def refresh(self) -> None:
        self.refreshed += 1

    def watch_run(self, name: str) -> None:
        self.watched[name] += 1

    def unwatch_run(self, name: str) -> None:
        self.watched[name] -= 1

    def overview(self) -> Overview:
        counts = Counter(line.health for line in self.lines)
        return Overview(
            stack=self.name,
            connected=self.connected,
            trouble="" if self.connected else "no connection to AWS",
            read_at=START,
            runs=(
                self.line,
                RunLine(
                    name="digits-6", state="SUCCEEDED", task="digits", round=9, rounds=9, started_at=START
                ),
                RunLine(name="digits-5", state="FAILED", task="digits", round=2, rounds=9, reason=HOSTILE),
            ),
            fleet=FleetCounts(
                total=len(self.lines),
                seen=counts["seen"],
                missing=counts["missing"],
                problems=counts["problem"],
                by_version=dict(Counter(line.version for line in self.lines)),
                by_task={"digits": len(self.lines)},
            ),
            alarms=(AlarmLine(name="DeadLettersAlarm", state="alarm", reason="1 message", at=START),),
            dead_letters=(DeadLetterLine(text=HOSTILE, source="replies", at=START),),
            dead_letter_count=1,
            models=tuple(model(number) for number in range(len(self.rounds), 0, -1)),
            cost_dollars=0.0042,
            read_units=321,
            read_units_per_second=2.5,
        )

    def run(self, name: str) -> RunView | None:
        if name != self.line.name:
            line = next((one for one in self.overview().runs if one.name == name), None)
            return RunView(line=line) if line else None
        return RunView(
            line=self.line,
            settings={"task": "digits", "rounds": 12, "where": HOSTILE},
            rounds=(*self.rounds, *([self.open_round] if self.open_round else [])),
            open_round=self.open_round,
            cells=self.cells,
            history=(ActionLine(at=START, action="start", by="arn:aws:iam::123456789012:user/ada"),),
            cost_dollars=0.0042,
            target_metric="accuracy",
        )

    def blocks(self, run: str, most: int = 1000) -> Sequence[CellBlock]:
        if run != self.line.name:
            return ()
        size = max(1, math.ceil(len(self.cells) / most))
        return [_block(self.cells[at : at + size]) for at in range(0, len(self.cells), size)]

    def devices(
        self, page: int, per_page: int, *, text: str = "", health: str = "", version: str = ""
    ) -> DevicesPage:
        found = [
            line
            for line in self.lines
            if text in line.device and health in {"", line.health} and version in {"", line.version}
        ]
        pages = max(1, math.ceil(len(found) / per_page))
        page = min(page, pages - 1)
        shown = tuple(found[page * per_page : (page + 1) * per_page])
        return DevicesPage(devices=shown, matching=len(found), page=page, pages=pages)

    def device(self, name: str) -> DeviceView:
        line = next((line for line in self.lines if line.device == name), None)
        if line is None:
            message = f"there is no device {name!r}"
            raise SettingsError(message)
        done = Turnaround(
            run="digits-7",
            round=3,
            attempt=1,
            state="REPLIED",
            seconds=4.2,
            train_seconds=3.1,
            upload_seconds=0.4,
        )
        lost = Turnaround(run="digits-7", round=2, attempt=1, state="FAILED", reason=HOSTILE)
        return DeviceView(line=line, turnarounds=(done, lost))

    def set_cell(self, at: int, **changes: object) -> None:
        """Change one cell of the open round."""
        cells = list(self.cells)
        cells[at] = msgspec.structs.replace(cells[at], **changes)
        self.cells = tuple(cells)
        self.change()


class FakeOperator:
    """Keeps the actions that it was asked for; refuses those in ``refused`` with their reason."""

    def __init__(self) -> None:
        self.done: list[tuple[str, ...]] = []
        self.settings: dict[str, object] = {}
        self.refused: dict[str, str] = {}

    def act(self, action: str, name: str, **details: object) -> None:
        self._do(action, name)
        self.settings = details

    def forget(self, device: str, last_seen: int) -> bool:  # noqa: ARG002 - as the operator takes it
        self._do("forget", device)
        return True

    def aliases(self, tasks: Sequence[str]) -> list[AliasLine]:
        line = AliasLine(task="digits", alias="production", run="digits-7", number=3, serial=2)
        return [line] if "digits" in tasks else []

    def promote(self, line: AliasLine) -> None:
        self._do("promote", line.task, line.alias, f"{line.run}/{line.number}", str(line.serial))

    def rollback(self, line: AliasLine) -> None:
        self._do("rollback", line.task, line.alias, str(line.serial))

    def _do(self, action: str, *words: str) -> None:
        if action in self.refused:
            raise SettingsError(self.refused[action])
        self.done.append((action, *words))


def _block(cells: Sequence[Cell]) -> CellBlock:
    counts = Counter(cell.state.value for cell in cells)
    worst = max((cell.state for cell in cells), key=_badness)
    progress = sum(cell.progress for cell in cells) / len(cells)
    return CellBlock(
        first=cells[0].device,
        last=cells[-1].device,
        devices=len(cells),
        counts=dict(counts),
        worst=worst,
        progress=progress,
    )


def _badness(state: CellState) -> int:
    bad = (CellState.LATE, CellState.SILENT, CellState.DECLINED, CellState.REFUSED, CellState.FAILED)
    return 1 + bad.index(state) if state in bad else 0


def cell(at: int) -> Cell:
    """Return the cell of one of the fleet's devices: most have replied, every tenth is special."""
    kinds = {3: CellState.FAILED, 4: CellState.TRAINING, 5: CellState.UPLOADING, 6: CellState.DECLINED}
    state = kinds.get(at % 10, CellState.REPLIED)
    replied = state is CellState.REPLIED
    reason = {CellState.FAILED: "out of memory", CellState.DECLINED: "battery at 12 %"}.get(state, "")
    return Cell(
        device=f"device-{at:05}",
        state=state,
        progress=0.4 if state is CellState.TRAINING else 0.0,
        reason=reason,
        announced_at=START,
        received_at=START + 4000 if replied else 0,
        turnaround_seconds=(30.0 if at == 7 else 4.0) if replied else 0.0,
    )


def closed_round(number: int, devices: int) -> RoundView:
    accuracy = 1 - 0.7 * math.exp(-number / 4)
    return RoundView(
        number=number,
        attempt=1,
        work="train",
        state="CLOSED",
        opened_at=START + number * 60_000,
        closed_at=START + number * 60_000 + 12_000,
        asked=devices,
        needed=devices,
        accepted=devices,
        replied=devices - devices // 6,
        failed=devices // 12,
        late=devices // 12,
        bytes_up=devices * 40_000,
        bytes_down=devices * 42_000,
        averaging_seconds=0.4,
        metrics={"accuracy": accuracy, "loss": 2 * math.exp(-number / 4), "local_accuracy": accuracy + 0.02},
    )


def open_round(number: int, devices: int) -> RoundView:
    return RoundView(
        number=number,
        attempt=1,
        work="train",
        state="OPEN",
        opened_at=START + number * 60_000,
        deadline_at=START + number * 60_000 + 600_000,
        asked=devices,
        needed=devices,
        accepted=devices - 1,
        replied=devices // 2,
    )


def device_line(at: int) -> DeviceLine:
    health = {3: "problem", 6: "missing"}.get(at % 10, "seen")
    return DeviceLine(
        device=f"device-{at:05}",
        last_seen=START,
        health=health,
        tasks=("digits",),
        examples=120 + at,
        version="0.4.0" if at % 3 else "0.3.0",
        attributes={"battery": "80", "note": HOSTILE},
        problem=HOSTILE if health == "problem" else "",
    )


def model(number: int) -> ModelLine:
    return ModelLine(
        task="digits",
        run="digits-7",
        number=number,
        parent=f"digits-7/{number - 1}" if number > 1 else "",
        made_at=START + number * 60_000,
        bytes=42_000,
        sha256="ab" * 32,
        replies=10,
        metrics={"accuracy": 0.9},
        key=f"models/digits-7/{number}.safetensors",
    )
