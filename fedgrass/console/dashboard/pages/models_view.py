"""The models of a stack: lineage, aliases, promotion and rollback."""

from collections.abc import Sequence
from typing import Any

from nicegui import ui

from fedgrass.console.dashboard.fleet_views import ModelLine
from fedgrass.console.dashboard.pages.dialogs import confirm
from fedgrass.console.dashboard.pages.elements import assign, box, button, table, text
from fedgrass.console.dashboard.pages.page_figures import shown_bytes
from fedgrass.console.dashboard.pages.visit import Visit, plain, shown_time

_ALIAS = "production"  # offered for a task without aliases
_MOST_METRICS = 3


class ModelsView:
    """The view named ``models``."""

    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        self._chosen = ""
        self._shown: Any = None
        with box("section", "card", aria_label="Model") as self._one:
            self._detail = box("div")
        with box("section", "card", aria_label="Models"):
            text("h2", "Models")
            text("p", "Choose a model for its lineage, or to let an alias name it.", "quiet")
            self._table = table(
                "Models",
                ("model", "task", "aliases", "from", "made", "size", "replies", "metrics"),
                numeric=(5, 6),
                choose=self._choose,
                empty="No model yet.",
            )

    def update(self, now: int) -> None:  # noqa: ARG002 - as all views
        """Show the present data."""
        models = self._visit.stack.source.overview().models
        assign(self._table, rows=[_row(line) for line in models])
        line = next((line for line in models if _name(line) == self._chosen), None)
        self._one.set_visibility(line is not None)
        if line is not None and (line, models) != self._shown:
            self._shown = (line, models)
            self._detail.clear()
            with self._detail:
                self._show_model(line, models)

    def _choose(self, name: str) -> None:
        self._chosen = name
        ui.run_javascript("window.scrollTo(0, 0)")

    def _close(self) -> None:
        self._chosen, self._shown = "", None

    def _show_model(self, line: ModelLine, models: Sequence[ModelLine]) -> None:
        shown = self._visit.stack
        aliases = sorted({alias for each in models if each.task == line.task for alias in each.aliases})
        with box("div", "head"):
            text("h2", plain(_name(line), 80))
            box("div", "grow")
            with box("div", "actions"):
                if not shown.actions.read_only:
                    for alias in aliases or [_ALIAS]:
                        self._offer(line, alias)
                button("Close", self._close)
        with box("dl", "facts"):
            for name, value in (
                ("lineage", " ← ".join(lineage(line, models))),
                ("task", line.task),
                ("aliases", ", ".join(line.aliases) or "none"),
                ("made", shown_time(line.made_at)),
                ("replies that made it", f"{line.replies:,}"),
                ("SHA-256", line.sha256),
                ("object", line.key),
                *((plain(name, 64), f"{value:.5g}") for name, value in sorted(line.metrics.items())),
            ):
                text("dt", name)
                text("dd", plain(value, 1000))

    def _offer(self, line: ModelLine, alias: str) -> None:
        shown = self._visit.stack
        name = plain(alias, 40)
        if alias in line.aliases:
            question = f"Let {name} of {line.task} name the model again that it named before {_name(line)}?"

            def rollback() -> None:
                confirm(
                    self._visit,
                    shown,
                    f"Roll back {name}",
                    question,
                    lambda: shown.actions.rollback(line.task, alias),
                )

            button(f"Roll back {name}…", rollback)
            return

        def promote() -> None:
            confirm(
                self._visit,
                shown,
                f"Promote to {name}",
                f"Let {name} of {line.task} name {_name(line)}? Predictors that follow {name} switch to it.",
                lambda: shown.actions.promote(line.task, alias, line.run, line.number),
            )

        button(f"Promote to {name}…", promote, "main")


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


def _name(line: ModelLine) -> str:
    return f"{line.run}/{line.number}"


def _row(line: ModelLine) -> dict[str, Any]:
    metrics = [f"{plain(name, 32)} {value:.4g}" for name, value in sorted(line.metrics.items())][
        :_MOST_METRICS
    ]
    aliases = ", ".join(plain(alias, 40) for alias in line.aliases)
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
