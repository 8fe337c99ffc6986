"""One run: its open round with a cell per device, its curves, its rounds, and who did what."""

from typing import Any

from nicegui import ui
from nicegui.events import GenericEventArguments

from fedgrass.console.dashboard.fleet_views import Cell, CellBlock, RoundView, RunView
from fedgrass.console.dashboard.pages.elements import (
    CellGrid,
    assign,
    box,
    button,
    chosen,
    say,
    table,
    text,
    word,
)
from fedgrass.console.dashboard.pages.page_figures import (
    TONES,
    Tone,
    curve_options,
    lost,
    metric_of,
    shown_bytes,
    shown_metric,
    shown_seconds,
)
from fedgrass.console.dashboard.pages.visit import Visit, plain, shown_time

_MOST_CELLS = 200  # of the grid; larger rounds are shown in blocks of devices
_BLOCKS = 100
_MANY = 0.2  # share of a block's devices whose state colours the block
_PER_PAGE = 50  # devices of a block's table
_MOST_ROUNDS = 20  # in the table, before the others are asked for
_BLOCK_TONES: dict[str, Tone] = {"bad": "warn", "warn": "good"}  # of blocks with few such devices
_ROUND_COLUMNS = ("round", "state", "asked", "replied", "lost", "took", "up", "down", "metric", "reason")


class RunPanel:
    """The chosen run of the chosen stack."""

    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        self._block: tuple[str, str] | None = None  # first and last device of the block that is listed
        self._page = 0
        self._all_rounds = False
        self._curves: tuple[Any, ...] = ()
        with box("section", "card", aria_label="Open round"):
            with box("div", "head"):
                self._title = text("h2")
                self._counts = box("div", "actions")
            self._about = text("p", "", "quiet")
            self._grid = CellGrid()
            self._grid.on("choose", self._choose_cell)
            self._listed = box("div")
            with self._listed:
                with box("div", "filters"):
                    self._listed_title = text("h3")
                    self._back = button("Previous devices", lambda: self._turn(-1))
                    self._on = button("Next devices", lambda: self._turn(1))
                    button("Close", self._close_list)
                self._cells = table(
                    "Devices of the round",
                    ("device", "state", "progress", "turnaround", "reason"),
                    numeric=(2, 3),
                    choose=self._open_device,
                )
        with box("section", "card", aria_label="Curves"):
            self._curves_title = text("h2", "Curves")
            self._chart_place = box("div", "chart")
            self._rounds = table(
                "Rounds", _ROUND_COLUMNS, numeric=(2, 3, 4, 5, 6, 7, 8), empty="No round yet."
            )
            self._more = button("Show all rounds", self._show_all)
        with box("section", "card", aria_label="Who did what"), box("details"):
            text("summary", "Who did what, and the settings of the run")
            self._history = table("Who did what", ("at", "action", "by"), empty="Nothing recorded.")
            self._settings = table("Settings", ("setting", "value"))
        self._shown_counts: dict[str, int] | None = None
        self._chart: ui.echart | None = None

    def update(self, now: int) -> None:
        """Show the present data."""
        run = self._visit.run(self._visit.place)
        if run is None:
            say(self._title, "No run is shown")
            self._listed.set_visibility(False)
            self._more.set_visibility(False)
            return
        self._show_round(run, now)
        self._show_curves(run)
        self._show_rounds(run)
        actions = [
            {"id": str(at), "cells": [shown_time(line.at), plain(line.action, 32), plain(line.by, 256)]}
            for at, line in enumerate(reversed(run.history))
        ]
        assign(self._history, rows=actions)
        settings = [
            {"id": name, "cells": [name, plain(value, 500)]} for name, value in sorted(run.settings.items())
        ]
        assign(self._settings, rows=settings)

    def _show_round(self, run: RunView, now: int) -> None:
        round_ = run.open_round or (run.rounds[-1] if run.rounds else None)
        if round_ is None:
            say(self._title, f"{plain(run.line.name, 64)}: no round yet")
            say(self._about, "It waits for an eligible device." if run.waiting_since else "")
            blocks: list[CellBlock] = []
        else:
            say(self._title, f"{plain(run.line.name, 64)}: round {_number(round_)}, {round_.state.lower()}")
            say(self._about, _about_round(round_, now))
            most = _MOST_CELLS if round_.asked <= _MOST_CELLS else _BLOCKS
            blocks = list(self._visit.stack.source.blocks(run.line.name, most))
        counts: dict[str, int] = {}
        for block in blocks:
            for state, count in block.counts.items():
                counts[state] = counts.get(state, 0) + count
        if counts != self._shown_counts:
            self._shown_counts = counts
            self._counts.clear()
            with self._counts:
                for state, tone in TONES.items():
                    if counts.get(state):
                        word(f"{counts[state]:,} {state}", tone)
        assign(self._grid, label="Devices of the round", cells=[_cell(block) for block in blocks])
        self._show_list(run)

    def _show_list(self, run: RunView) -> None:
        self._listed.set_visibility(self._block is not None)
        if self._block is None:
            return
        first, last = self._block
        cells = [cell for cell in run.cells if first <= cell.device <= last]
        pages = max(1, -(-len(cells) // _PER_PAGE))
        self._page = min(self._page, pages - 1)
        listed = cells[self._page * _PER_PAGE : (self._page + 1) * _PER_PAGE]
        self._back.set_visibility(self._page > 0)
        self._on.set_visibility(self._page + 1 < pages)
        say(self._listed_title, f"{len(cells):,} devices, page {self._page + 1} of {pages}")
        assign(self._cells, rows=[_cell_row(cell) for cell in listed])

    def _show_curves(self, run: RunView) -> None:
        last = run.rounds[-1] if run.rounds else None
        key = (run.line.name, len(run.rounds), last.state if last else "", run.line.rounds)
        if key == self._curves or not ui.context.client.has_socket_connection:
            return
        if self._chart is None:  # once the page is shown: the browser reads and compiles a megabyte for it
            with self._chart_place:
                self._chart = ui.echart({}, renderer="svg").classes("chart")
        self._curves = key
        metric = plain(metric_of(run), 32)
        say(self._curves_title, f"Curves of {plain(run.line.name, 64)}")
        label = f"{metric or 'No metric'} by round, and devices that replied or were lost"
        assign(self._chart, **{"role": "img", "aria-label": label})
        self._chart.options.clear()
        self._chart.options.update(curve_options(run))
        self._chart.update()

    def _show_rounds(self, run: RunView) -> None:
        metric = metric_of(run)
        listed = run.rounds if self._all_rounds else run.rounds[-_MOST_ROUNDS:]
        self._more.set_visibility(len(run.rounds) > len(listed))
        say(self._more, f"Show all {len(run.rounds):,} rounds")
        assign(self._rounds, rows=[_round_row(each, metric) for each in reversed(listed)])

    def _choose_cell(self, event: GenericEventArguments) -> None:
        first, _, last = chosen(event).partition("..")
        if not last:  # a single device
            self._open_device(first)
            return
        self._block, self._page = (first, last), 0
        self._visit.update()

    def _open_device(self, device: str) -> None:
        if device:
            self._visit.device = device
            self._visit.show("devices")

    def _turn(self, by: int) -> None:
        self._page = max(0, self._page + by)
        self._visit.update()

    def _close_list(self) -> None:
        self._block = None
        self._visit.update()

    def _show_all(self) -> None:
        self._all_rounds = True
        self._visit.update()


def _number(round_: RoundView) -> str:
    return f"{round_.number}" if round_.attempt == 1 else f"{round_.number}, attempt {round_.attempt}"


def _about_round(round_: RoundView, now: int) -> str:
    if round_.closed_at:
        took = shown_seconds((round_.closed_at - round_.opened_at) / 1000)
        averaging = shown_seconds(round_.averaging_seconds)
        return f"It took {took}; averaging {averaging}. {plain(round_.reason)}".strip()
    left = (round_.deadline_at - now) / 1000
    deadline = f"{shown_seconds(left)} until its deadline" if left > 0 else "its deadline has passed"
    return f"{round_.replied - round_.refused:,} of the {round_.needed:,} replies that close it; {deadline}."


def _cell(block: CellBlock) -> dict[str, Any]:
    """Return the cell of one device, or of a block of devices with its worst state."""
    state = block.worst.value
    if block.devices == 1:
        works = state in {"training", "uploading"}
        share = round(block.progress * 100) if works else None
        percent = f" {share} %" if state == "training" else ""
        return _as_cell(block.first, plain(block.first, 64), f"{state}{percent}", TONES[state], share)
    said = ", ".join(f"{count:,} {name}" for name, count in block.counts.items() if count)
    bad = block.counts.get(state, 0)
    name = f"{plain(block.first, 64)} and {block.devices - 1:,} more"
    tone = TONES[state] if bad >= _MANY * block.devices else _BLOCK_TONES.get(TONES[state], TONES[state])
    made = _as_cell(f"{block.first}..{block.last}", name, f"{bad:,} {state}", tone, None)
    replied = block.counts.get("replied", 0)
    return {**made, "note": said, "share": round(100 * replied / block.devices)}


def _as_cell(key: str, name: str, said: str, tone: str, share: int | None) -> dict[str, Any]:
    return {"id": key, "name": name, "word": said, "tone": tone, "note": name, "share": share}


def _cell_row(cell: Cell) -> dict[str, Any]:
    state = cell.state.value
    return {
        "id": cell.device,
        "cells": [
            plain(cell.device, 128),
            {"text": state, "tone": TONES[state]},
            f"{cell.progress:.0%}" if cell.progress else "",
            shown_seconds(cell.turnaround_seconds) if cell.turnaround_seconds else "",
            plain(cell.reason),
        ],
    }


def _round_row(each: RoundView, metric: str) -> dict[str, Any]:
    took = (each.closed_at - each.opened_at) / 1000 if each.closed_at else 0
    tone = {"CLOSED": "good", "ABANDONED": "bad"}.get(each.state, "busy")
    value = each.metrics.get(metric)
    work = "" if each.work == "train" else f" {each.work}"
    return {
        "id": f"{each.number}-{each.attempt}",
        "cells": [
            f"{_number(each)}{work}",
            {"text": each.state.lower(), "tone": tone},
            f"{each.asked:,}",
            f"{each.replied:,}",
            f"{lost(each):,}",
            shown_seconds(took) if took else "",
            shown_bytes(each.bytes_up),
            shown_bytes(each.bytes_down),
            "" if value is None else shown_metric(metric, value),
            plain(each.reason),
        ],
    }
