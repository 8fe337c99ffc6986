"""The first screen: for each stack, whether its fleet learns, what holds it back, and what it costs."""

from functools import partial

from nicegui.elements.mixins.text_element import TextElement

from fedgrass.console.dashboard.fleet_views import Overview, RunLine, RunView
from fedgrass.console.dashboard.pages.dialogs import ask_for_run, confirm
from fedgrass.console.dashboard.pages.elements import assign, box, button, say, table, text, word
from fedgrass.console.dashboard.pages.page_actions import RunAction, offered
from fedgrass.console.dashboard.pages.page_figures import (
    RUN_TONES,
    Hold,
    cost_sentence,
    held_back_by,
    learning,
    shown_dollars,
    some_names,
)
from fedgrass.console.dashboard.pages.run_view import RunPanel
from fedgrass.console.dashboard.pages.visit import Visit, plain, shown_time

_MOST_HOLDS = 5
_MOST_RUNS = 12  # in the list, before the others are asked for


class AnswersView:
    """The view named ``overview``."""

    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        with box("div", "stacks"):
            self._cards = [StackCard(visit, place) for place in range(len(visit.stacks))]
        self._panel = RunPanel(visit)
        with box("section", "card", aria_label="Runs"):
            with box("div", "head"):
                text("h2", "Runs")
            self._runs = table(
                "Runs", ("run", "state", "task", "round", "started"), choose=self._choose, empty="No run yet."
            )
            self._more = button("Show all runs", self._show_all)
        self._all = False

    def update(self, now: int) -> None:
        """Show the present data."""
        for card in self._cards:
            card.update(now)
        self._panel.update(now)
        shown = self._visit.stack
        runs = shown.source.overview().runs
        listed = runs if self._all else runs[:_MOST_RUNS]
        self._more.set_visibility(len(runs) > len(listed))
        say(self._more, f"Show all {len(runs):,} runs")
        rows = [
            {
                "id": line.name,
                "cells": [
                    plain(line.name, 64),
                    {
                        "text": line.state,
                        "tone": RUN_TONES.get(line.state, "quiet"),
                        "note": plain(line.reason),
                    },
                    line.task,
                    _rounds(line),
                    shown_time(line.started_at),
                ],
            }
            for line in listed
        ]
        assign(self._runs, rows=rows)

    def _choose(self, name: str) -> None:
        self._visit.choose_run(self._visit.place, name)
        self._visit.show("overview")

    def _show_all(self) -> None:
        self._all = True
        self._visit.update()


class StackCard:
    """One stack with the three answers for its run."""

    def __init__(self, visit: Visit, place: int) -> None:
        self._visit = visit
        self._place = place
        shown = visit.stacks[place]
        with box("section", "card", aria_label=f"Stack {shown.name}"):
            with box("div", "head"):
                text("h2", shown.name)
                self._run = text("span")
                self._state = word("", "quiet")
            self._trouble = text("p", "", "banner")
            with box("div", "answers"):
                self._learns = _Answer("Does it learn?")
                with box("div", "answer"):
                    text("h3", "What holds it back?")
                    self._nothing = text("p", "", "big")
                    self._holds = box("ul", "holds")
                    self._more = text("p", "", "quiet")
                self._costs = _Answer("What does it cost?")
            with box("div", "actions"):
                if len(visit.stacks) > 1:
                    assign(button("Show", self._show), **{"aria-label": f"Show {shown.name}"})
                self._actions = box("div", "actions")
                if not shown.actions.read_only:
                    button("Start a run…", partial(ask_for_run, visit, shown))
        self._held: list[Hold] | None = None
        self._offered: tuple[str, str] | None = None

    def update(self, now: int) -> None:
        """Show the present data."""
        shown = self._visit.stacks[self._place]
        overview = shown.source.overview()
        run = self._visit.run(self._place)
        gone = "" if overview.connected else f"The cloud is gone: {plain(overview.trouble) or 'no answer'}."
        say(
            self._trouble,
            f"{gone} Shown as of {shown_time(overview.read_at)}." if gone else "",
            "banner tone-bad",
        )
        if run is None:
            say(self._run, "no run yet" if not overview.runs else "reading…")
            return
        line = run.line
        say(self._run, plain(line.name, 64))
        say(self._state, line.state, f"word tone-{RUN_TONES.get(line.state, 'quiet')}")
        verdict = learning(run)
        self._learns.show(verdict.word, f"text-{verdict.tone}", verdict.sentence)
        self._show_holds(held_back_by(run, now), run, overview)
        self._costs.show(f"{shown_dollars(run.cost_dollars)} so far", "", cost_sentence(run))
        self._show_actions(line.name, line.state)

    def _show_holds(self, holds: list[Hold], run: RunView, overview: Overview) -> None:
        missing, total = overview.fleet.missing, overview.fleet.total
        fleet = f"{missing:,} of the fleet's {total:,} devices have not been seen lately." if missing else ""
        say(
            self._nothing, "" if holds else _nothing(run), "big text-good" if not run.waiting_since else "big"
        )
        self._nothing.set_visibility(not holds)
        more = f"and {len(holds) - _MOST_HOLDS} more reasons. " if len(holds) > _MOST_HOLDS else ""
        say(self._more, more + fleet)
        if holds == self._held:
            return
        self._held = holds
        self._holds.clear()
        with self._holds:
            for hold in holds[:_MOST_HOLDS]:
                with box("li"):
                    word(f"{len(hold.devices):,} {hold.state}", hold.tone)
                    text("span", f" {some_names(hold.devices)}: {hold.reason}")

    def _show_actions(self, name: str, state: str) -> None:
        shown = self._visit.stacks[self._place]
        if self._offered == (name, state):
            return
        self._offered = (name, state)
        self._actions.clear()
        if shown.actions.read_only:
            return
        with self._actions:
            for action in offered(state):
                kind = "danger" if action.is_final else ""
                button(f"{action.label}…", partial(self._ask, action, name), kind)

    def _ask(self, action: RunAction, name: str) -> None:
        shown = self._visit.stacks[self._place]
        act = partial(shown.actions.on_run, action.name, name)
        question = action.question.format(run=name)
        confirm(self._visit, shown, action.label, question, act, danger=action.is_final)

    def _show(self) -> None:
        self._visit.choose_stack(self._place)
        self._visit.show("overview")


class _Answer:
    """A question with its answer in large type, and a sentence that explains it."""

    def __init__(self, question: str) -> None:
        with box("div", "answer"):
            text("h3", question)
            self._word: TextElement = text("p", "", "big")
            self._sentence: TextElement = text("p", "", "quiet")

    def show(self, answer: str, classes: str, sentence: str) -> None:
        say(self._word, answer, f"big {classes}".strip())
        say(self._sentence, sentence)


def _rounds(line: RunLine) -> str:
    """Return how far a run is; the last round may only evaluate, beyond those that the settings ask for."""
    return f"{min(line.round, line.rounds)} of {line.rounds}" if line.rounds else str(line.round)


def _nothing(run: RunView) -> str:
    if run.waiting_since:
        return "No device is eligible"
    return "Nothing" if run.rounds else "Not known yet"
