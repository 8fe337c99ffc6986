"""The devices of a stack: counts, filters and pages; and one device with its last rounds."""

from typing import Any

from nicegui import background_tasks
from nicegui import run as executor
from nicegui.events import GenericEventArguments

from fedgrass.console.dashboard.fleet_views import DeviceLine, DeviceView, Turnaround
from fedgrass.console.dashboard.pages.dialogs import confirm
from fedgrass.console.dashboard.pages.elements import assign, box, button, chosen, say, table, text, word
from fedgrass.console.dashboard.pages.page_figures import TONES, Tone, shown_seconds
from fedgrass.console.dashboard.pages.visit import Visit, plain, shown_time
from fedgrass.console.devices.ages import ago
from fedgrass.federation.errors import FedgrassError

_PER_PAGE = 50
_HEALTH: dict[str, Tone] = {"seen": "good", "missing": "warn", "problem": "bad"}
_OUTCOMES: dict[str, Tone] = {**TONES, "completed": "good"}
_MOST_VERSIONS = 20
_LONGEST_FILTER = 200
_MINUTE = 60  # seconds


class DevicesView:
    """The view named ``devices``."""

    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        self._page, self._text, self._health, self._version = 0, "", "", ""
        self._versions: list[str] = []
        with box("section", "card", aria_label="One device") as self._one:
            self._detail = box("div")
        self._one.set_visibility(False)
        with box("section", "card", aria_label="Devices"):
            with box("div", "head"):
                text("h2", "Devices")
                self._counts = box("div", "actions")
            with box("div", "filters"):
                self._filter = box(
                    "input", type="text", placeholder="part of a name", aria_label="Part of a name"
                )
                self._filter.on("input", self._take_text, args=["target.value"], js_handler=_VALUE)
                self._pick_health = box("select", aria_label="Health")
                with self._pick_health:
                    for health in ("", *_HEALTH):
                        assign(text("option", health or "any health"), value=health)
                self._pick_health.on("change", self._take_health, js_handler=_VALUE)
                self._pick_version = box("select", aria_label="Version")
                self._pick_version.on("change", self._take_version, js_handler=_VALUE)
                self._back = button("Previous page", lambda: self._turn(-1))
                self._on = button("Next page", lambda: self._turn(1))
                self._where = text("span", "", "quiet")
            self._table = table(
                "Devices",
                ("device", "health", "last seen", "version", "tasks", "examples", "problem"),
                numeric=(5,),
                choose=self._open,
                empty="No device matches.",
            )
        self._shown: dict[str, int] | None = None
        self._opened = ""

    def update(self, now: int) -> None:
        """Show the present data."""
        source = self._visit.stack.source
        fleet = source.overview().fleet
        counts = {"seen": fleet.seen, "missing": fleet.missing, "problem": fleet.problems}
        if counts != self._shown:
            self._shown = counts
            self._counts.clear()
            with self._counts:
                for health, count in counts.items():
                    word(f"{count:,} {health}", _HEALTH[health])
        self._show_versions(fleet.by_version)
        found = source.devices(
            self._page, _PER_PAGE, text=self._text, health=self._health, version=self._version
        )
        self._page = found.page
        self._back.set_visibility(found.page > 0)
        self._on.set_visibility(found.page + 1 < found.pages)
        say(self._where, f"{found.matching:,} devices, page {found.page + 1} of {max(1, found.pages)}")
        assign(self._table, rows=[_row(line, now) for line in found.devices])
        if self._visit.device and self._visit.device != self._opened:
            self._open(self._visit.device)

    def _show_versions(self, by_version: dict[str, int]) -> None:
        versions = sorted(by_version, key=lambda version: -by_version[version])[:_MOST_VERSIONS]
        if versions == self._versions and self._pick_version.default_slot.children:
            return
        self._versions = versions
        self._pick_version.clear()
        with self._pick_version:
            assign(text("option", "any version"), value="")
            for version in versions:
                assign(text("option", plain(version, 40)), value=version)

    def _take_text(self, event: GenericEventArguments) -> None:
        self._text, self._page = chosen(event)[:_LONGEST_FILTER], 0
        self._visit.update()

    def _take_health(self, event: GenericEventArguments) -> None:
        health = chosen(event)
        self._health, self._page = health if health in _HEALTH else "", 0
        self._visit.update()

    def _take_version(self, event: GenericEventArguments) -> None:
        version = chosen(event)
        self._version, self._page = version if version in self._versions else "", 0
        self._visit.update()

    def _turn(self, by: int) -> None:
        self._page = max(0, self._page + by)
        self._visit.update()

    async def _open_device(self, device: str) -> None:
        self._detail.clear()
        self._one.set_visibility(True)
        with self._detail:
            text("p", f"Reading {plain(device, 128)}…", "quiet")
        try:
            found = await executor.io_bound(self._visit.stack.source.device, device)
        except FedgrassError as error:
            self._visit.tell(str(error), "bad")
            self._close()
            return
        if found is not None and self._opened == device and not self._detail.is_deleted:
            self._detail.clear()
            with self._detail:
                self._show_device(found)

    def _open(self, device: str) -> Any:
        self._opened = self._visit.device = device
        return background_tasks.create(self._open_device(device))

    def _close(self) -> None:
        self._opened = self._visit.device = ""
        self._one.set_visibility(False)

    def _show_device(self, found: DeviceView) -> None:
        line, shown = found.line, self._visit.stack
        with box("div", "head"):
            text("h2", plain(line.device, 128))
            word(line.health, _HEALTH.get(line.health, "quiet"))
            box("div", "grow")
            if not shown.actions.read_only:
                button("Forget…", lambda: self._ask_to_forget(line), "danger")
            button("Close", self._close)
        if line.problem:
            text("p", plain(line.problem, 500), "banner tone-bad")
        with box("dl", "facts"):
            for name, value in _facts(line):
                text("dt", name)
                text("dd", value)
        if found.note:
            text("p", plain(found.note, 500), "quiet")
        table(
            "Its last rounds",
            ("round", "state", "turnaround", "download", "evaluate", "train", "upload", "reason"),
            numeric=(2, 3, 4, 5, 6),
            rows=[_turnaround(one) for one in found.turnarounds],
            empty="It has taken part in no round that is still known.",
        )

    def _ask_to_forget(self, line: DeviceLine) -> None:
        shown, device = self._visit.stack, line.device
        question = (
            f"Forget {device}? It leaves the list and is asked no more, until its next heartbeat. Its updates"
            " and its thing in AWS IoT stay as they are."
        )

        def forget() -> str:
            return shown.actions.forget(device, line.last_seen)

        confirm(self._visit, shown, "Forget the device", question, forget, danger=True)


_VALUE = "(event) => emit(event.target.value)"


def _facts(line: DeviceLine) -> list[tuple[str, str]]:
    attributes = [(plain(name, 64), plain(value)) for name, value in sorted(line.attributes.items())]
    return [
        ("last seen", shown_time(line.last_seen)),
        ("version", plain(line.version, 64)),
        ("tasks", plain(", ".join(line.tasks))),
        ("examples", f"{line.examples:,}"),
        *attributes,
    ]


def _row(line: DeviceLine, now: int) -> dict[str, Any]:
    return {
        "id": line.device,
        "cells": [
            plain(line.device, 128),
            {"text": line.health, "tone": _HEALTH.get(line.health, "quiet")},
            _ago((now - line.last_seen) / 1000),
            plain(line.version, 64),
            plain(", ".join(line.tasks), 100),
            f"{line.examples:,}",
            plain(line.problem),
        ],
    }


def _ago(seconds: float) -> str:
    """Return an age in coarse steps, so that the table changes rarely."""
    return ago(int(seconds)) if seconds >= _MINUTE else "under a minute ago"


def _turnaround(one: Turnaround) -> dict[str, Any]:
    parts = (one.seconds, one.download_seconds, one.evaluate_seconds, one.train_seconds, one.upload_seconds)
    again = f".{one.attempt}" if one.attempt > 1 else ""
    return {
        "id": f"{one.run}/{one.round}-{one.attempt}",
        "cells": [
            f"{plain(one.run, 64)}/{one.round}{again}",
            {"text": one.state.lower(), "tone": _OUTCOMES.get(one.state.lower(), "quiet")},
            *(shown_seconds(part) if part else "" for part in parts),
            plain(one.reason),
        ],
    }
