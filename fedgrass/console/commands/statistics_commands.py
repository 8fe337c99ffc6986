"""``fedgrass stats``: its options. See statistics/statistics_actions.py."""

import argparse
from pathlib import Path

from fedgrass.console.deferred import deferred
from fedgrass.console.options import add_stack, number_between, whole_number

_ACTIONS = "fedgrass.console.statistics.statistics_actions"


def add_stats(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``stats`` with ``start``, ``show``, ``compare`` and ``list``."""
    stats = commands.add_parser("stats", help="statistics of the devices' data, without moving the data")
    kinds = stats.add_subparsers(required=True, metavar="action")
    _add_start(kinds)
    show = kinds.add_parser("show", help="print the statistics of a run, and draw them")
    show.add_argument("name", help="name of the run, or a file that `stats show --json` wrote")
    show.add_argument("--json", action="store_true", help="print the result as JSON instead of a table")
    show.add_argument("--picture", type=Path, metavar="FILE", help="write a picture (PNG) to this file")
    add_stack(show)
    show.set_defaults(run=deferred(f"{_ACTIONS}:show"))
    compare = kinds.add_parser("compare", help="print how the data changed from one run to another")
    compare.add_argument("before", help="name of the earlier run, or a file of its JSON")
    compare.add_argument("after", help="name of the later run, or a file of its JSON")
    compare.add_argument("--json", action="store_true", help="print the comparison as JSON")
    add_stack(compare)
    compare.set_defaults(run=deferred(f"{_ACTIONS}:compare"))
    listed = kinds.add_parser("list", help="list the runs of statistics of a stack")
    add_stack(listed)
    listed.set_defaults(run=deferred(f"{_ACTIONS}:list_statistics"))


def _add_start(kinds: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    start = kinds.add_parser("start", help="ask the devices of a task for statistics of their data")
    start.add_argument("name", help="name of the new run")
    start.add_argument("settings", nargs="*", metavar="setting=value", help="of the run, such as count=100")
    start.add_argument("--task", required=True, help="the task whose data are meant")
    start.add_argument(
        "--features", nargs="+", metavar="NAME", help="only these features; * and ? match any text (all)"
    )
    start.add_argument(
        "--statistics",
        nargs="+",
        metavar="NAME",
        help="of mean, variance, min, max, histogram, quantiles, labels (all)",
    )
    start.add_argument(
        "--edges",
        action="append",
        default=[],
        metavar="FEATURE=E0,E1,...",
        help="edges of a feature's histogram; without them, a first round agrees edges",
    )
    start.add_argument("--edges-of", metavar="RUN", help="take the histograms' edges of another run's result")
    start.add_argument("--bins", type=whole_number(1, 256), help="of histograms with agreed edges (20)")
    start.add_argument("--quantiles", type=whole_number(2, 1000), help="4: quartiles (20)")
    start.add_argument("--sketch-k", type=whole_number(8, 4096), help="precision of quantiles (200)")
    start.add_argument("--most-labels", type=whole_number(1, 1000), help="counted by name (100)")
    start.add_argument(
        "--minimum-devices", type=whole_number(3, 1_000_000), help="behind any published figure (5)"
    )
    start.add_argument(
        "--epsilon", type=number_between(0, 1000), help="noise in each answer, of this privacy budget (none)"
    )
    start.add_argument("--no-wait", action="store_true", help="return once the run is started")
    add_stack(start)
    start.set_defaults(run=deferred(f"{_ACTIONS}:start"))
