"""What the dashboard costs: reads of DynamoDB, memory, and the time of its data, for a large fleet.

    python -m benchmarks.dashboard [--quick] [--devices 10000] [--rounds 500]

Tables in memory hold the rows of the fleet and of a run whose latest round is open and asks every device;
they count read units as AWS documents it, which the embedded cloud does not. While the
state reads, the devices of the open round send their messages, five each, from this process: they pass the
decoder, not a broker.

``read_units_per_second`` is the largest number within any second; the ``..._ms`` are the CPU time of the
slowest of many calls during all of that; ``..._known_seconds`` is when all rows of a kind were read. With
``--quick`` the state is watched for 15 seconds; otherwise until all is read.

Then the page is served by a process over the same tables and opened in headless Chromium, where that is
installed: ``first_paint_seconds`` is its first contentful paint (``plain_paint_seconds``: that of a page of
one word, for comparison), ``run_shown_seconds`` includes the data, and ``memory_mb`` is the resident memory
of the server without its tables.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import psutil

from benchmarks.fleets import dashboard_page
from benchmarks.fleets.dashboard_fleet import OUTPUTS, RUN, OpenRoundFeed, clients_in_memory, write_fleet
from benchmarks.measuring.benchmark_options import benchmark_parser, finish, run_benchmark
from fedgrass.console.dashboard.fleet_state import FleetState, opened

QUESTION = "dashboard"
_QUICK_SECONDS, _LONGEST_SECONDS = 15.0, 300.0
_POLL_SECONDS = 0.5  # of the page
_BLOCKS = 1000


class ReadLog:
    """The reads of a state with their times, kept by the clock that it is given."""

    def __init__(self) -> None:
        self.spent: list[tuple[float, float]] = []

    def record(self, state: FleetState) -> None:
        """Record what ``state`` reads from now on."""
        budget = state.budget
        spend = budget.spend

        def recorded(units: float) -> None:
            self.spent.append((time.monotonic(), units))
            spend(units)

        budget.spend = recorded  # type: ignore[method-assign]

    def most_in_a_second(self) -> float:
        """Return the most units within any second."""
        return max(
            (sum(units for at, units in self.spent if begin <= at < begin + 1) for begin, _ in self.spent),
            default=0.0,
        )


def measure(clients: Callable[[str], Any], options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of the data of the dashboard."""
    seconds = _QUICK_SECONDS if options.quick else _LONGEST_SECONDS
    feed = OpenRoundFeed(OUTPUTS["Fleet"], options.devices, options.rounds, 20.0)
    before = psutil.Process().memory_info().rss
    state = FleetState("fedgrass", clients, OUTPUTS, feed)
    log = ReadLog()
    log.record(state)
    slowest: dict[str, float] = {}
    known: dict[str, float] = {}
    begin = time.monotonic()
    with opened(state):
        state.watch_run(RUN)
        while time.monotonic() - begin < seconds:
            overview = _timed(slowest, "overview_ms", state.overview)
            run = _timed(slowest, "run_ms", lambda: state.run(RUN))
            _timed(slowest, "blocks_ms", lambda: state.blocks(RUN, _BLOCKS))
            _timed(slowest, "devices_ms", lambda: state.devices(0, 50, text="site-7"))
            reached = {
                "runs_known_seconds": bool(overview.runs),
                "curve_known_seconds": bool(run and len(run.rounds) == options.rounds),
                "devices_known_seconds": overview.fleet.complete,
                "cells_known_seconds": bool(run and run.rounds and not run.unknown),
            }
            for name, is_reached in reached.items():
                if is_reached:
                    known.setdefault(name, round(time.monotonic() - begin, 1))
            if len(known) == len(reached) and not options.quick:
                break
            time.sleep(_POLL_SECONDS)
        lasted = time.monotonic() - begin
        trouble = state.overview().trouble
    if trouble:
        message = f"the state had trouble: {trouble}"
        raise RuntimeError(message)
    return {
        "read_units_per_second": round(log.most_in_a_second(), 1),
        "read_units_mean": round(sum(units for _, units in log.spent) / lasted, 2),
        "reads": len(log.spent),
        "data_memory_mb": round((psutil.Process().memory_info().rss - before) / 1e6, 1),
        "messages": feed.status.received,
        "messages_late_seconds": round(feed.late_seconds, 2),
        **{name: round(value, 1) for name, value in slowest.items()},
        **known,
    }


def _timed(slowest: dict[str, float], name: str, call: Callable[[], Any]) -> Any:
    begin = time.thread_time()
    result = call()
    slowest[name] = max(slowest.get(name, 0.0), (time.thread_time() - begin) * 1000)
    return result


def main() -> None:
    """Print the figures; the last line is JSON."""
    parser = benchmark_parser(__doc__, "the data for 15 seconds, the page opened once")
    parser.add_argument("--devices", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=500)
    options = parser.parse_args()
    clients = clients_in_memory()
    write_fleet(clients("dynamodb"), OUTPUTS, options.devices, options.rounds)
    figures = {"devices": options.devices, "rounds": options.rounds, **measure(clients, options)}
    if dashboard_page.MISSING:
        print(f"the page is not measured: {dashboard_page.MISSING} is not installed")
    else:
        opens, warm = (1, 6.0) if options.quick else (5, 30.0)
        figures |= dashboard_page.measure_page(
            options.devices, options.rounds, opens=opens, warm_seconds=warm
        )
    for figure, value in figures.items():
        print(f"{figure:24} {value}")
    finish(QUESTION, options, figures)


if __name__ == "__main__":
    run_benchmark(QUESTION, main)
