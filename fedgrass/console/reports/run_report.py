"""The report on a run: one HTML file that refers to nothing else, and its pictures as PNG files.

Names and reasons come from devices. Jinja escapes everything that the template fills in, and the page's
Content-Security-Policy allows neither scripts nor anything from another address.
"""

import base64
import hashlib
import time
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec
from jinja2 import Environment, Template
from markupsafe import Markup
from msgspec import Struct

from components.runtime.atomic_file import write_atomically
from fedgrass import __version__
from fedgrass.console import stack
from fedgrass.console.deploy.costs import dollars
from fedgrass.console.reports.report_figures import (
    OUTCOMES,
    Collector,
    ReportFigures,
    metrics_of,
)
from fedgrass.console.reports.report_pictures import DARK, LIGHT, pictures, png
from fedgrass.console.reports.turnaround_rows import PARTS
from fedgrass.console.results import show_result
from fedgrass.console.runs import fleet_operator
from fedgrass.console.runs.fleet_operator import Operator
from fedgrass.console.runs.run_costs import RunCost, run_cost
from fedgrass.console.runs.run_display import differing_settings, utc
from fedgrass.console.terminal import printable, say
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.round_metrics import is_share
from fedgrass.federation.rounds import Round, State, Work
from fedgrass.federation.runs import Run

_DRAWN = 2  # metrics: accuracy and loss, or the first ones
_LONGEST_CELL = 2_000  # characters
_GIGABYTE = 10**9


class Reported(Struct, frozen=True, kw_only=True):
    """The files of a report."""

    run: str
    page: str  # path of the HTML file
    page_bytes: int
    pictures: list[str]  # paths of the PNG files


@stack.refusals()
def report(stack_name: str, name: str, output: str, *, out: Path) -> None:
    """Write the report on a run.

    Args:
        stack_name: the stack.
        name: name of the run.
        output: ``text`` or ``json``.
        out: the folder in which the run's folder is made.

    Raises:
        SettingsError: the run does not exist, or a file cannot be written.
    """
    operator = fleet_operator.open_operator(stack_name)
    run = operator.run(name)
    figures, rounds = collect(operator, run)
    show_result(write_report(run, figures, rounds, out / name, round(time.time() * 1000)), output, _draw)


def collect(operator: Operator, run: Run) -> tuple[ReportFigures, list[Round]]:
    """Read a run round by round; return its figures and its rounds."""
    collector, rounds = Collector(), []
    for record in operator.rounds(run):
        collector.add(record.round, record.participants, operator.turnarounds(record.round))
        rounds.append(record.round)
    return collector.figures(), rounds


def write_report(  # noqa: PLR0913 - a run, and the page
    run: Run, figures: ReportFigures, rounds: Sequence[Round], folder: Path, now: int, *, simulated: str = ""
) -> Reported:
    """Write ``report.html`` and ``report/<picture>.png`` to a folder.

    Args:
        run: the run.
        figures: its figures.
        rounds: its attempts at rounds, for the cost.
        folder: the run's folder, which is created if it does not exist.
        now: milliseconds since the epoch.
        simulated: what was simulated, if the run was not a real one.

    Raises:
        SettingsError: one of them cannot be written.
    """
    cost = run_cost(rounds, run)
    drawn, files = [], {}
    for picture in pictures(run, figures, cost.by_round, metrics_of(figures.rounds)[:_DRAWN]):
        light, dark = png(picture, LIGHT), png(picture, DARK)
        files[folder / "report" / f"{picture.name}.png"] = light
        drawn.append(
            {
                "title": picture.title,
                "explanation": picture.explanation,
                "light": _base64(light),
                "dark": _base64(dark),
            }
        )
    page = render(run, figures, cost, drawn, now, simulated=simulated).encode()
    for path, content in {folder / "report.html": page, **files}.items():
        _write(path, content)
    return Reported(
        run=run.name,
        page=str(folder / "report.html"),
        page_bytes=len(page),
        pictures=[str(path) for path in files],
    )


def _base64(content: bytes) -> Markup:
    return Markup(base64.b64encode(content).decode())  # noqa: S704 - letters, digits, +, / and = alone


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    except OSError as error:
        message = f"{path} cannot be written: {error.strerror}; choose another folder with --out"
        raise SettingsError(message) from error


def render(  # noqa: PLR0913 - a run, and the page
    run: Run,
    figures: ReportFigures,
    cost: RunCost,
    drawn: Sequence[dict[str, str]],
    now: int,
    *,
    simulated: str = "",
) -> str:
    """Return the page.

    Args:
        run: the run.
        figures: its figures.
        cost: what its rounds cost.
        drawn: its pictures: ``title``, ``explanation``, and as Base64 ``light`` and ``dark``.
        now: milliseconds since the epoch.
        simulated: what was simulated, if the run was not a real one.
    """
    style = _resource("report.css")
    found = {outcome for each in figures.rounds for outcome in each.outcomes}
    shown = [outcome for outcome in OUTCOMES if outcome in found]
    return page_template().render(
        run=run,
        figures=figures,
        pictures=drawn,
        actions=run.history,
        style=Markup(style),  # noqa: S704 - report.css
        style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        tiles=_tiles(run, figures, cost),
        costs=_cost_tiles(cost),
        settings=[(name, _shown(value)) for name, value in differing_settings(run.settings).items()],
        outcomes=[outcome for outcome in shown if outcome != "replied"],
        all_outcomes=shown,
        parts=PARTS,
        metrics=metrics_of(figures.rounds)[:_DRAWN],
        made_at=now,
        simulated=simulated,
        version=__version__,
        utc=utc,
        number=_number,
    )


@cache
def page_template() -> Template:
    """Return the template of the page, which escapes everything that is not ``Markup``."""
    environment = Environment(autoescape=True, finalize=_finalize, trim_blocks=True)
    return environment.from_string(_resource("report.html.jinja"))


def _resource(name: str) -> str:
    return resources.files("fedgrass.console.reports").joinpath(name).read_text(encoding="utf-8")


def _finalize(value: Any) -> Any:
    """Return a value as the template writes it: foreign text without control characters, and not endless."""
    is_foreign = isinstance(value, str) and not isinstance(value, Markup)
    return printable(value, _LONGEST_CELL) if is_foreign else value


def _shown(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _number(value: float | None, digits: int = 2) -> str:
    return "" if value is None or not isinstance(value, float | int) else f"{value:.{digits}f}"


def _tiles(run: Run, figures: ReportFigures, cost: RunCost) -> list[tuple[str, str]]:
    """Return the figures that answer at a glance whether the run learns, with whom, and for how much."""
    closed = [
        each for each in figures.rounds if each.state is State.CLOSED and each.work is not Work.EVALUATE
    ]
    planned = "" if run.settings.has_server_app else f" of {run.settings.rounds:,}"
    tiles = [("Rounds closed", f"{len(closed):,}{planned}")]
    for metric in metrics_of(figures.rounds)[:_DRAWN]:
        values = [each.metrics[metric] for each in figures.rounds if metric in each.metrics]
        text = f"{values[-1]:.1%}" if is_share(metric) else f"{values[-1]:.4g}"
        tiles.append((f"Last {metric}", text))
    replies = sum(each.outcomes.get("replied", 0) for each in figures.rounds)
    asked = sum(sum(each.outcomes.values()) for each in figures.rounds)
    tiles.append(("Devices that replied", f"{figures.devices_replied:,} of {figures.devices_count:,}"))
    if asked:
        tiles.append(("Participation", f"{replies / asked:.1%}"))
    if figures.mean:
        tiles.append(("Mean turnaround", f"{figures.mean.seconds:.2f} s"))
    sent = sum(each.bytes_up + each.bytes_down for each in figures.rounds)
    transferred = f"{sent / _GIGABYTE:,.1f} GB" if sent > _GIGABYTE else f"{sent / 1e6:,.1f} MB"
    return [*tiles, ("Transferred", transferred), ("Cost", f"${dollars(cost.dollars)}")]


def _cost_tiles(cost: RunCost) -> list[tuple[str, str]]:
    named = (
        ("Egress", cost.egress),
        ("S3", cost.s3),
        ("Messages", cost.messages),
        ("DynamoDB", cost.dynamodb),
        ("Lambda", cost.functions),
        ("In all", cost.dollars),
    )
    return [(name, f"${dollars(value)}") for name, value in named]


def _draw(found: Reported) -> None:
    names = ", ".join(Path(path).name for path in found.pictures)
    say(f"{found.page} has the report, {found.page_bytes / 1e6:.1f} MB; pictures: {names}")
