"""The alarms and dead letters of a stack, and what the page itself costs in reads."""

from fedgrass.console.dashboard.pages.elements import assign, box, say, table, text
from fedgrass.console.dashboard.pages.visit import Visit, plain, shown_time

_TONES = {"alarm": "bad", "ok": "good"}


class AlarmsView:
    """The view named ``alarms``."""

    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        with box("section", "card", aria_label="Alarms"):
            text("h2", "Alarms")
            self._note = text("p", "", "quiet")
            self._alarms = table("Alarms", ("alarm", "state", "since", "reason"), empty="No alarm is known.")
        with box("section", "card", aria_label="Dead letters"):
            text("h2", "Dead letters")
            self._count = text("p", "", "quiet")
            self._letters = table("Dead letters", ("at", "from", "message"), empty="None.")
        with box("section", "card", aria_label="This page"):
            text("h2", "What this page reads")
            self._reads = text("p")

    def update(self, now: int) -> None:  # noqa: ARG002 - as all views
        """Show the present data."""
        overview = self._visit.stack.source.overview()
        alarms = [
            {
                "id": str(at),
                "cells": [
                    plain(line.name, 128),
                    {"text": line.state, "tone": _TONES.get(line.state, "quiet")},
                    shown_time(line.at),
                    plain(line.reason),
                ],
            }
            for at, line in enumerate(overview.alarms)
        ]
        assign(self._alarms, rows=alarms)
        say(self._note, plain(overview.alarms_note))
        letters = [
            {
                "id": str(at),
                "cells": [shown_time(line.at) or "-", plain(line.source, 128), plain(line.text, 500)],
            }
            for at, line in enumerate(overview.dead_letters)
        ]
        assign(self._letters, rows=letters)
        count = overview.dead_letter_count
        advice = (
            " `fedgrass queue redrive` sends them back to the queues that they came from." if count else ""
        )
        say(self._count, f"{count:,} in the queue.{advice}")
        say(
            self._reads,
            f"{overview.read_units_per_second:.1f} read units a second of DynamoDB over the last minute,"
            f" {overview.read_units:,.0f} since the start.",
        )
