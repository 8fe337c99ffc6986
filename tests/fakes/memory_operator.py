"""The operator's access to a ``SmallFleet``: the real initiator's actions and rows, over ports in memory."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import msgspec

from cloud_functions.rounds import run_actions
from fedgrass.console.reports.turnaround_rows import Turnaround
from fedgrass.console.runs.fleet_operator import Operator, RoundRecord
from fedgrass.federation import messages, object_keys
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.rounds import Participant, Round
from fedgrass.federation.runs import Run, RunState
from fedgrass.federation.selection import Candidate
from fedgrass.federation.settings import RunSettings
from tests.fakes.small_fleet import SmallFleet


class MemoryOperator:
    """An ``Operator`` of a fleet in memory."""

    def __init__(self, fleet: SmallFleet) -> None:
        self._fleet = fleet
        self.bucket: Any = fleet.bucket
        self.rows: dict[str, dict[str, Turnaround]] = {}  # of the turnarounds table, by round id
        self.reads: list[str] = []

    def devices(self) -> list[Candidate]:
        return list(self._fleet.devices.seen_since(0))

    def start(self, name: str, settings: RunSettings, initial: bytes) -> Run:
        self.bucket.write_once(object_keys.model(name, 0), initial)
        return self.act("start", name, settings=msgspec.to_builtins(settings))

    def act(self, action: str, name: str, **details: object) -> Run:
        run_actions.act(self._fleet.cloud, {"action": action, "run": name, **details})
        return self.run(name)

    def runs(self) -> Mapping[str, RunState]:
        return self._fleet.rounds.runs()

    def run(self, name: str) -> Run:
        run = self._fleet.rounds.run(name)
        if run is None:
            message = f"there is no run {name!r}"
            raise SettingsError(message)
        return run

    def every_run(self, names: Iterable[str]) -> list[Run]:
        return [self.run(name) for name in names]

    def participants(self, round_: Round) -> list[Participant]:
        self.reads.append(f"participants {round_.number}")
        return list(self._fleet.rounds.participants(round_))

    def rounds(self, run: Run, first: int = 1) -> Iterator[RoundRecord]:
        for found in self.rounds_alone(run, first):
            yield RoundRecord(found, self.participants(found))

    def rounds_alone(self, run: Run, first: int = 1) -> Iterator[Round]:
        return self._fleet.rounds.rounds_from(run.name, first, run.round)

    def turnarounds(self, round_: Round) -> dict[str, Turnaround]:
        return self.rows.get(messages.round_id(round_.run, round_.number, round_.attempt), {})

    def candidate_ports(self) -> tuple[Any, Any, Any, Any]:
        return self._fleet.rounds, self._fleet.devices, self._fleet.thing_groups, self.bucket

    def model(self, name: str, number: int) -> bytes:
        data: bytes = self.bucket.read(object_keys.model(name, number), 10**9)
        return data


def operator_of(fleet: SmallFleet) -> Operator:
    """Return the operator of a fleet in memory, as the console's functions take it."""
    return cast("Operator", MemoryOperator(fleet))
