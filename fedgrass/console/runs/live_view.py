"""Follow a run live: subscribe to the fleet's topics, show the run's progress and one line per device.

``Watcher`` subscribes as any MQTT client with a certificate can. ``LiveView`` redraws in place on a
  terminal;
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
from paho.mqtt.enums import CallbackAPIVersion
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.progress_bar import ProgressBar
from rich.table import Table

from fedgrass.console.terminal import LONGEST_TEXT, printable, styled
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

CONNECT_SECONDS = 15.0


@dataclass(frozen=True)
class Broker:
    """The address of an MQTT broker, and the certificate with which a client connects to it."""

    host: str
    port: int
    root_ca: Path
    certificate: Path
    private_key: Path
    client_prefix: str
    """Each client appends a suffix of its own, so that no two take each other's session."""


class Watcher:
    """A subscription to all topics of a fleet. ``hear(topic, payload)`` is called on a separate thread."""

    def __init__(self, fleet: str, broker: Broker, hear: Callable[[str, bytes], None]) -> None:
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
        self._client.on_message = lambda _client, _data, message: hear(message.topic, bytes(message.payload))

    def __enter__(self) -> Self:
        """Connect and subscribe; reconnects by itself from then on."""
        try:
            self._client.connect(*self._address, keepalive=30)
        except OSError as error:
            host, port = self._address
            message = f"cannot watch the fleet's topics at {host}:{port}: {error}"
            raise FedgrassError(message) from error
        self._client.loop_start()
        return self

    def __exit__(self, *_: object) -> None:
        """Disconnect."""
        self._client.disconnect()
        self._client.loop_stop()

    def _subscribe(self, client: mqtt.Client, *_: Any) -> None:
        client.subscribe(self._filter, qos=1)


_REFRESH_PER_SECOND = 8
_OTHER_LINES = 8  # of the terminal, kept for what is not a device
_STYLES = {"done": "green", "training": "cyan", "failed": "red", "declined": "yellow"}


def _line_of(figures: RoundFigures) -> str:
    """Return the figures of a round that has ended, without what did not happen in it."""
    names = ("asked", "accepted", "replied", "refused", "declined", "failed", "silent", "late", "capped")
    counts = [f"{getattr(figures, name)} {name}" for name in names if getattr(figures, name)]
    return (
        f"{', '.join(counts) or 'nobody asked'}; {figures.bytes_up / 1e6:.2f} MB up, "
        f"{figures.bytes_down / 1e6:.2f} MB down; opened in {figures.opening_seconds:.2f} s, "
        f"averaged in {figures.averaging_seconds:.2f} s"
    )


class DeviceLine:
    """What is known of one device."""

    def __init__(self) -> None:
        self.state = "idle"
        self.round = 0
        self.progress = 0.0
        self.note = ""


class LiveView:
    """Hears the topics of a fleet and shows one run."""

    def __init__(self, console: Console, run: str, rounds: int) -> None:
        self._console = console
        self._run = run
        self._lock = threading.Lock()
        self._devices: dict[str, DeviceLine] = {}
        self._bar = Progress(
            TextColumn("run {task.description}", markup=False),
            BarColumn(bar_width=40),
            MofNCompleteColumn(),
            TextColumn("rounds  {task.fields[note]}", markup=False),
            TimeElapsedColumn(),
            console=console,
        )
        self._bar_task = self._bar.add_task(run, total=rounds, note="")
        self._live = Live(
            get_renderable=self._render,
            console=console,
            refresh_per_second=_REFRESH_PER_SECOND,
            transient=True,
        )

    def __enter__(self) -> Self:
        """Begin to show."""
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End the view; what was printed above it stays."""
        self._live.stop()

    def say(self, text: str, *, aside: str = "", style: str = "") -> None:
        """Print one line above the view, as it is: what devices say cannot style it."""
        line = styled((aside, "dim"), (text, style), longest=LONGEST_TEXT)
        self._console.print(line, highlight=False, soft_wrap=True)

    def round_closed(self, number: int, note: str) -> None:
        """Move the run's bar to ``number`` closed rounds."""
        self._bar.update(self._bar_task, completed=number, note=printable(note, LONGEST_TEXT))

    def hear(self, topic: str, payload: bytes) -> None:
        """Take one message of any topic of the fleet; what cannot be read is shown as such."""
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
            said = messages.decode_announce(payload)
            if isinstance(said, Announcement):
                self._update(thing, said, "asked")
        elif kind is Kind.STATUS:
            status = messages.decode(payload, Status)
            state = "training" if status.state == "progress" else status.state
            note = "its first work starts PyTorch" if status.state == "accepted" and status.round == 1 else ""
            self._update(thing, status, state, status.progress, status.reason or note)
        elif kind is Kind.COMPLETE:
            reply = messages.decode(payload, Completion)
            metrics = {**reply.metrics, **reply.train_metrics}
            figures = "  ".join(f"{name} {value:.3f}" for name, value in sorted(metrics.items()))
            self._update(thing, reply, "done", 1.0, f"trained {reply.train_seconds:.2f} s  {figures}")

    def _update(
        self, thing: str, about: WorkMessage, state: str, progress: float = 0.0, note: str = ""
    ) -> None:
        if about.run != self._run:
            return
        with self._lock:
            line = self._devices.setdefault(thing, DeviceLine())
            if (about.round, state, line.state) == (line.round, "training", "done"):
                return  # a late word of progress
            line.round, line.state, line.progress, line.note = about.round, state, progress, note

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
