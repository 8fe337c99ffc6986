"""Follow a run live: subscribe to the fleet's topics, show the run's progress and one line per device.

``Watcher`` subscribes like any MQTT client with a certificate. ``LiveView`` redraws in place on a terminal;
otherwise (a pipe, a log) it prints the changes of each round line by line.
"""

import secrets
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import paho.mqtt.client as mqtt
from msgspec import UNSET
from paho.mqtt.enums import CallbackAPIVersion
from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.progress_bar import ProgressBar
from rich.table import Table

from fedgrass.console.redrawn_view import RedrawnView
from fedgrass.console.tables import styled
from fedgrass.console.terminal import LONGEST_TEXT, printable
from fedgrass.federation import messages, topics
from fedgrass.federation.errors import FedgrassError, MessageError
from fedgrass.federation.messages import (
    Announcement,
    Completion,
    RoundChange,
    RoundFigures,
    Status,
    WorkMessage,
)
from fedgrass.federation.topics import Kind

_OTHER_LINES = 8  # lines of the terminal that are not devices
_STYLES = {"done": "green", "training": "cyan", "failed": "red", "declined": "yellow"}


@dataclass(frozen=True)
class Broker:
    """The address of an MQTT broker, and the certificate that clients connect with."""

    host: str
    port: int
    root_ca: Path
    certificate: Path
    private_key: Path
    client_prefix: str
    """Each client appends a random suffix, so that no two share a session."""


class Watcher:
    """A subscription to all topics of a fleet; calls ``receive(topic, payload)`` on a separate thread."""

    def __init__(self, fleet: str, broker: Broker, receive: Callable[[str, bytes], None]) -> None:
        self._filter = topics.everything(fleet)
        self._address = (broker.host, broker.port)
        client_id = f"{broker.client_prefix}{secrets.token_hex(4)}"
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=mqtt.MQTTv5)
        self._client.tls_set(
            str(broker.root_ca),
            str(broker.certificate),
            str(broker.private_key),
            tls_version=ssl.PROTOCOL_TLS_CLIENT,
        )
        self._client.on_connect = self._subscribe
        self._client.on_message = lambda _client, _data, message: receive(
            message.topic, bytes(message.payload)
        )

    def __enter__(self) -> Self:
        """Connect and subscribe; reconnects automatically."""
        try:
            self._client.connect(*self._address, keepalive=30)
        except OSError as error:
            host, port = self._address
            message = f"cannot connect to the MQTT broker at {host}:{port} to follow the run: {error}"
            raise FedgrassError(message) from error
        self._client.loop_start()
        return self

    def __exit__(self, *_: object) -> None:
        """Disconnect."""
        self._client.disconnect()
        self._client.loop_stop()

    def _subscribe(self, client: mqtt.Client, *_: Any) -> None:
        client.subscribe(self._filter, qos=1)


_COUNTS = (
    *("asked", "accepted", "replied", "refused", "declined", "failed", "silent", "late", "capped"),
    *("overdue", "stale", "wasted"),
)


def _line_of(figures: RoundFigures) -> str:
    """Return the figures of a closed or abandoned round in one line, without counts of zero."""
    counts = [f"{getattr(figures, name)} {name}" for name in _COUNTS if getattr(figures, name)]
    ages = ""
    if figures.staleness_mean is not UNSET:
        ages = f"; {figures.staleness_mean:.3g} models old on average, {figures.staleness_max} at most"
    return (
        f"{', '.join(counts) or 'no devices asked'}; {figures.bytes_up / 1e6:.2f} MB up, "
        f"{figures.bytes_down / 1e6:.2f} MB down; opened in {figures.opening_seconds:.2f} s, "
        f"averaged in {figures.averaging_seconds:.2f} s{ages}"
    )


class DeviceLine:
    """The last known state of one device."""

    def __init__(self) -> None:
        self.state = "idle"
        self.round = 0
        self.progress = 0.0
        self.note = ""


class LiveView(RedrawnView):
    """Show one run from the messages on the topics of its fleet.

    Args:
        console: to print on.
        run: name of the run.
        rounds: that the run has; None if only its ServerApp knows.
    """

    def __init__(self, console: Console, run: str, rounds: int | None) -> None:
        super().__init__(console)
        self._run = run
        self._lock = threading.Lock()
        self._devices: dict[str, DeviceLine] = {}
        self._with_messages: set[str] = set()  # devices that work for a ServerApp
        self._bar = Progress(
            TextColumn("run {task.description}", markup=False),
            BarColumn(bar_width=40),
            MofNCompleteColumn(),
            TextColumn("rounds  {task.fields[note]}", markup=False),
            TimeElapsedColumn(),
            console=console,
        )
        self._bar_task = self._bar.add_task(run, total=rounds, note="")

    def say(self, text: str, *, aside: str = "", style: str = "") -> None:
        """Print one line above the view, literally: text of devices cannot style it."""
        line = styled((aside, "dim"), (text, style), longest=LONGEST_TEXT)
        self._console.print(line, highlight=False, soft_wrap=True)

    def round_closed(self, number: int, note: str) -> None:
        """Move the run's bar to ``number`` closed rounds."""
        self._bar.update(self._bar_task, completed=number, note=printable(note, LONGEST_TEXT))

    def round_note(self, note: str) -> None:
        """Show how far the open round is, next to the run's bar."""
        self._bar.update(self._bar_task, note=printable(note, LONGEST_TEXT))

    def show_device(self, thing: str, number: int, state: str, note: str) -> None:
        """Show the state of a device's work for round ``number``; ``note`` is its reason, if there is one."""
        self._set(thing, number, state, 1.0 if state == "done" else 0.0, note)

    def receive(self, topic: str, payload: bytes) -> None:
        """Process one message on any topic of the fleet; an unreadable one is shown as such."""
        try:
            match topic.split("/"):
                case [_, _, "rounds", run] if run == self._run:
                    change = messages.decode(payload, RoundChange)
                    who = f" {change.device}" if change.device else ""
                    aside = f"  round {change.round}.{change.attempt}{who} "
                    self.say(change.text, aside=aside)
                    if change.figures:
                        self.say(_line_of(change.figures), aside=" " * len(aside))
                case [_, _, "clients", _, _]:
                    self._device(*topics.parse_device_topic(topic), payload)
        except MessageError as error:
            self.say(f"unreadable message on {topic}: {error}", style="yellow")

    def _device(self, thing: str, kind: Kind, payload: bytes) -> None:
        if kind is Kind.ANNOUNCE:
            announcement = messages.decode_announce(payload)
            if isinstance(announcement, Announcement):
                self._update(thing, announcement, "asked", note=self._aim_of(thing, announcement))
        elif kind is Kind.STATUS:
            status = messages.decode(payload, Status)
            state = "training" if status.state == "progress" else status.state
            first = status.state == "accepted" and status.round == 1 and thing not in self._with_messages
            note = "first work: starting PyTorch" if first else ""
            self._update(thing, status, state, status.progress, status.reason or note)
        elif kind is Kind.COMPLETE:
            reply = messages.decode(payload, Completion)
            metrics = {**reply.metrics, **reply.train_metrics}
            figures = "  ".join(f"{name} {value:.3f}" for name, value in sorted(metrics.items()))
            worked = "worked" if thing in self._with_messages else "trained"
            self._update(thing, reply, "done", 1.0, f"{worked} {reply.train_seconds:.2f} s  {figures}")

    def _aim_of(self, thing: str, announcement: Announcement) -> str:
        """Return what a ServerApp's message is for, and note that the device works for one; else empty."""
        if announcement.run != self._run or not announcement.message:
            return ""
        self._with_messages.add(thing)
        return f"{announcement.message.type} {announcement.message.group}".strip()

    def _update(
        self, thing: str, about: WorkMessage, state: str, progress: float = 0.0, note: str = ""
    ) -> None:
        if about.run == self._run:
            self._set(thing, about.round, state, progress, note)

    def _set(self, thing: str, number: int, state: str, progress: float, note: str) -> None:
        with self._lock:
            line = self._devices.setdefault(thing, DeviceLine())
            if (number, state, line.state) == (line.round, "training", "done"):
                return  # progress that arrives after completion
            line.round, line.state, line.progress, line.note = number, state, progress, note

    def _render(self) -> RenderableType:
        lines = Table.grid(padding=(0, 2))
        for _ in range(4):
            lines.add_column(no_wrap=True)
        lines.add_column(no_wrap=True, overflow="ellipsis")
        most = max(4, self._console.size.height - _OTHER_LINES)
        with self._lock:
            for thing, line in sorted(self._devices.items())[:most]:
                state = styled((line.state, _STYLES.get(line.state, "")))
                bar = ProgressBar(total=1.0, completed=line.progress, width=20)
                lines.add_row(
                    styled(thing), f"round {line.round}", state, bar, styled(line.note, longest=LONGEST_TEXT)
                )
            left = len(self._devices) - most
        if left > 0:
            lines.add_row(f"... and {left} more devices")
        return Group(self._bar, lines)
