"""The runs of a stack as the dashboard knows them: rows, made into lines, curves and models."""

from collections.abc import Iterable
from typing import Any

import msgspec

from fedgrass.console.dashboard.fleet_views import ActionLine, ModelLine, RoundView, RunLine
from fedgrass.console.runs.run_costs import run_cost
from fedgrass.federation import object_keys
from fedgrass.federation.rounds import ENDED, Round, State, Work
from fedgrass.federation.runs import LIVING, Run

_COPIED = tuple(
    name for name in RoundView.__struct_fields__ if name in (*Round.__struct_fields__, "bytes_down")
)


class KnownRun:
    """One run: its row, its rounds, and how far they were read."""

    def __init__(self, name: str, state: str) -> None:
        self.name = name
        self.state = state
        self.run: Run | None = None
        self.rounds: dict[tuple[int, int], Round] = {}
        self.next_page: Any = None  # key of the next page of rounds, backwards
        self.complete = False  # whether the rounds were read to the first one
        self.is_lost = False  # whether its row is missing, or was written by another version
        self.read_at = 0.0  # of the row, by the clock of the reads
        self._views: dict[tuple[int, int], tuple[Round, RoundView]] = {}
        self._dollars: float | None = None  # until a round changes
        self._models: list[ModelLine] | None = None  # the same

    @property
    def is_living(self) -> bool:
        """Whether the run may open further rounds."""
        return self.state in LIVING

    @property
    def latest(self) -> Round | None:
        """The latest attempt at a round, if it was read."""
        return self.rounds.get((self.run.round, self.run.attempt)) if self.run else None

    @property
    def has_open_round(self) -> bool:
        """Whether the latest round has not ended, or its row was not read yet."""
        if not self.is_living or (self.run and not self.run.round):
            return False
        return self.latest is None or self.latest.state not in ENDED

    def keep(self, run: Run) -> bool:
        """Keep the row of the run; return whether it differs from the known one."""
        changed = run != self.run
        if self.run is None:
            self._models = None  # whose task was not known
        self.run, self.state, self.is_lost = run, str(run.state), False
        return changed

    def lose(self) -> None:
        """Note that the row of the run cannot be read."""
        self.run, self.is_lost = None, True

    def keep_rounds(self, rounds: Iterable[Round]) -> bool:
        """Keep rows of rounds; return whether one differs from the known one."""
        changed = False
        for round_ in rounds:
            key = (round_.number, round_.attempt)
            if self.rounds.get(key) != round_:
                self.rounds[key] = round_
                self._dollars = self._models = None
                changed = True
        return changed

    def line(self) -> RunLine:
        """Return the run's line in the list of runs."""
        run = self.run
        if run is None:
            reason = "its row in the table is missing, or of another version" if self.is_lost else ""
            return RunLine(name=self.name, state=self.state, reason=reason)
        reason = run.reason
        if not reason and run.waiting_since:
            reason = "waits: no device to ask was found"
        return RunLine(
            name=self.name,
            state=self.state,
            task=run.settings.task,
            round=run.round,
            rounds=0 if run.settings.has_server_app else run.settings.rounds,
            started_at=run.started_at,
            ended_at=run.ended_at,
            reason=reason,
        )

    def history(self) -> tuple[ActionLine, ...]:
        """Return who did what to the run, as far as it was recorded."""
        actions = self.run.history if self.run else ()
        return tuple(ActionLine(at=each.at, action=each.action, by=each.by) for each in actions)

    def settings(self) -> dict[str, Any]:
        """Return the settings of the run; empty while its row was not read."""
        return msgspec.to_builtins(self.run.settings) if self.run else {}

    def views(self) -> tuple[RoundView, ...]:
        """Return all known attempts at rounds, in order."""
        return tuple(self.view(self.rounds[key]) for key in sorted(self.rounds))

    def view(self, round_: Round) -> RoundView:
        """Return one of the known attempts at a round as the page shows it."""
        key = (round_.number, round_.attempt)
        known = self._views.get(key)
        if known is None or known[0] is not round_:
            known = (round_, RoundView(**{name: getattr(round_, name) for name in _COPIED}))
            self._views[key] = known
        return known[1]

    def dollars(self) -> float | None:
        """Return what the known rounds cost so far, an estimate; None while none was read."""
        if not self.rounds:
            return 0.0 if self.run and not self.run.round else None
        if self._dollars is None and self.run:
            rounds = (self.rounds[key] for key in sorted(self.rounds))
            self._dollars = run_cost(rounds, self.run).dollars
        return self._dollars

    def models(self) -> list[ModelLine]:
        """Return the models that the known rounds made, the newest first."""
        if self._models is None:
            self._models = self._made_models()
        return self._models

    def _made_models(self) -> list[ModelLine]:
        measured = {
            round_.base: round_.metrics
            for _, round_ in sorted(self.rounds.items())
            if round_.state is State.CLOSED and round_.metrics
        }
        task = self.run.settings.task if self.run else ""
        return [
            ModelLine(
                task=task,
                run=self.name,
                number=round_.number,
                parent=f"{self.name}/{round_.base}",
                made_at=round_.closed_at,
                bytes=round_.model_bytes,
                sha256=round_.model_sha256,
                replies=round_.good,
                key=object_keys.model(self.name, round_.number),
                metrics=measured.get(round_.number, {}),
            )
            for _, round_ in sorted(self.rounds.items(), reverse=True)
            if round_.state is State.CLOSED and round_.work is Work.TRAIN and round_.model_sha256
        ]
