"""The models of a stack: lineage, aliases, promotion and rollback."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from nicegui import background_tasks, ui
from nicegui import run as executor

from fedgrass.console.dashboard.fleet_views import ModelLine
from fedgrass.console.dashboard.pages.dialogs import confirm
from fedgrass.console.dashboard.pages.elements import assign, box, button, table, text
from fedgrass.console.dashboard.pages.page_actions import AliasLine
from fedgrass.console.dashboard.pages.page_figures import shown_bytes
from fedgrass.console.dashboard.pages.visit import Visit, now_in_milliseconds, plain, shown_time
from fedgrass.federation.errors import FedgrassError
from fedgrass.federation.training_settings import LOCAL_PREFIX

_ALIAS = "production"  # always offered
_ALIAS_MILLISECONDS = 10_000  # between two readings
_MOST_METRICS = 3
_OF_TRAINING = (LOCAL_PREFIX, "train_")  # metrics of the devices' own models


class ModelsView:
    """The view named ``models``."""

    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        self._chosen = ""
        self._shown: Any = None
        self._aliases: list[AliasLine] = []
        self._read_at = 0  # milliseconds since the epoch
        with box("section", "card", aria_label="Model") as self._one:
            self._detail = box("div")
        with box("section", "card", aria_label="Aliases"):
            text("h2", "Aliases")
            self._named = table(
                "Aliases",
                ("alias", "task", "model", "times moved"),
                numeric=(3,),
                empty="No alias yet: choose a model below to promote it.",
            )
        with box("section", "card", aria_label="Models"):
            text("h2", "Models")
            text(
                "p",
                "Choose a model for its lineage, or to let an alias name it. These are the models of the runs"
                " that are active or were looked at; `fedgrass model list` has all.",
                "quiet",
            )
            self._table = table(
                "Models",
                ("model", "task", "aliases", "from", "made", "size", "replies", "metrics"),
                numeric=(5, 6),
                choose=self._choose,
                empty="No model yet.",
            )

    def update(self, now: int) -> None:
        """Show the present data; the aliases, which are in the bucket, are read now and then."""
        overview = self._visit.stack.source.overview()
        models = overview.models
        if now - self._read_at > _ALIAS_MILLISECONDS:
            self._read_at = now
            tasks = {line.task for line in models} | {line.task for line in overview.runs if line.task}
            background_tasks.create(self._read_aliases(sorted(tasks)))
        assign(self._named, rows=[_alias_row(line) for line in self._aliases])
        assign(self._table, rows=[_row(line, self._names_of(line)) for line in models])
        line = next((line for line in models if _name(line) == self._chosen), None)
        self._one.set_visibility(line is not None)
        if line is not None and (line, models, self._aliases) != self._shown:
            self._shown = (line, models, self._aliases)
            self._detail.clear()
            with self._detail:
                self._show_model(line, models)

    async def _read_aliases(self, tasks: list[str]) -> None:
        try:
            found = await executor.io_bound(self._visit.stack.actions.aliases, tasks)
        except FedgrassError as error:
            self._visit.tell(f"The aliases cannot be read: {error}", "bad")
            return
        if found is not None and found != self._aliases and not self._detail.is_deleted:
            self._aliases = found
            self.update(now_in_milliseconds())

    def _names_of(self, line: ModelLine) -> list[str]:
        model = (line.run, line.number)
        return sorted({one.alias for one in self._aliases if (one.run, one.number) == model})

    def _choose(self, name: str) -> None:
        self._chosen = name
        self._visit.update()
        ui.run_javascript("window.scrollTo(0, 0)")

    def _close(self) -> None:
        self._chosen, self._shown = "", None
        self._visit.update()

    def _show_model(self, line: ModelLine, models: Sequence[ModelLine]) -> None:
        shown = self._visit.stack
        known = {one.alias: one for one in self._aliases if one.task == line.task}
        with box("div", "head"):
            text("h2", plain(_name(line), 80))
            box("div", "grow")
            with box("div", "actions"):
                if not shown.actions.read_only:
                    for alias in sorted({_ALIAS, *known}):
                        self._offer(line, alias, known.get(alias))
                button("Close", self._close)
        with box("dl", "facts"):
            for name, value in (
                ("lineage", " ← ".join(lineage(line, models))),
                ("task", line.task),
                ("aliases", ", ".join(self._names_of(line)) or "none"),
                ("made", shown_time(line.made_at)),
                ("replies that made it", f"{line.replies:,}"),
                ("SHA-256", line.sha256),
                ("object", line.key),
                *((plain(name, 64), f"{value:.5g}") for name, value in sorted(line.metrics.items())),
            ):
                text("dt", name)
                text("dd", plain(value, 1000))

    def _offer(self, line: ModelLine, alias: str, known: AliasLine | None) -> None:
        """Add the button that moves an alias: back, if it names this model, else to this model."""
        name = plain(alias, 40)
        serial = known.serial if known else 0
        target = AliasLine(task=line.task, alias=alias, run=line.run, number=line.number, serial=serial)
        if known and (known.run, known.number) == (line.run, line.number):
            title = f"Roll back {name}"
            question = f"Let {name} of {line.task} name the model again that it named before {_name(line)}?"
            act = partial(self._visit.stack.actions.rollback, target)
            button(f"{title}…", partial(self._ask, title, question, act))
        else:
            title = f"Promote to {name}"
            question = f"Let {name} of {line.task} name {_name(line)}? Predictors that follow it switch."
            if known:
                question += f" It names {known.run}/{known.number} now."
            act = partial(self._visit.stack.actions.promote, target)
            button(f"{title}…", partial(self._ask, title, question, act), "main")

    def _ask(self, title: str, question: str, act: Callable[[], str]) -> None:
        def act_and_read_again() -> str:
            done = act()
            self._read_at = 0  # so that the next update reads the aliases
            return done

        confirm(self._visit, self._visit.stack, title, question, act_and_read_again)


def lineage(line: ModelLine, models: Sequence[ModelLine], most: int = 6) -> list[str]:
    """Return the names of a model and of the models that it was made from, the newest first."""
    known = {_name(each): each for each in models}
    names, seen = [_name(line)], {_name(line)}
    at: ModelLine | None = line
    while at is not None and at.parent and at.parent not in seen and len(names) < most:
        names.append(at.parent)
        seen.add(at.parent)
        at = known.get(at.parent)
    return names


def _alias_row(line: AliasLine) -> dict[str, Any]:
    cells = [plain(line.alias, 40), line.task, plain(f"{line.run}/{line.number}", 80), f"{line.serial:,}"]
    return {"id": f"{line.task} {line.alias}", "cells": cells}


def _name(line: ModelLine) -> str:
    return f"{line.run}/{line.number}"


def _row(line: ModelLine, names: Sequence[str]) -> dict[str, Any]:
    named = [name for name in sorted(line.metrics) if not name.startswith(_OF_TRAINING)][:_MOST_METRICS]
    metrics = [f"{plain(name, 32)} {line.metrics[name]:.4g}" for name in named]
    aliases = ", ".join(plain(alias, 40) for alias in names)
    return {
        "id": _name(line),
        "cells": [
            plain(_name(line), 80),
            line.task,
            {"text": aliases, "tone": "good"} if aliases else "",
            plain(line.parent, 80),
            shown_time(line.made_at),
            shown_bytes(line.bytes) if line.bytes else "",
            f"{line.replies:,}",
            ", ".join(metrics),
        ],
    }
