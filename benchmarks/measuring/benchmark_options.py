"""The options that every benchmark has, and the end of a benchmark: its JSON line and its record."""

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measuring import record
from fedgrass.federation.errors import FedgrassError

DATA = Path(__file__).parents[3] / "shared" / "data"
_USAGE, _INTERRUPTED = 2, 130  # exit codes


def benchmark_parser(description: str | None, quick: str) -> argparse.ArgumentParser:
    """Return a parser with the options of all benchmarks; a benchmark adds its own.

    Args:
        description: the docstring of the benchmark.
        quick: what ``--quick`` leaves out, for the help.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--record", action="store_true", help="write the figures into docs/benchmarks.json")
    parser.add_argument("--data", type=Path, default=DATA, help="the folder of the data sets (%(default)s)")
    parser.set_defaults(load=os.getloadavg()[0])  # before the benchmark adds its own
    return parser


def finish(
    question: str,
    options: argparse.Namespace,
    figures: Mapping[str, Any],
    *,
    seeds: Sequence[int] = (),
    peers: Mapping[str, str | None] | None = None,
) -> None:
    """Print the figures as the last line; record them if asked to.

    Args:
        question: the name of the benchmark.
        options: as parsed by ``benchmark_parser``.
        figures: anything that JSON can hold.
        seeds: of the repetitions.
        peers: the version of each peer; None: it is not installed.

    Raises:
        FedgrassError: the record cannot be read or written.
    """
    if options.record:
        record.write(
            question,
            figures,
            command=record.command_of(question, sys.argv[1:]),
            seeds=seeds,
            peers=peers or {},
            load=options.load,
        )
    print(json.dumps(figures), flush=True)


def run_benchmark(question: str, main: Callable[[], None]) -> None:
    """Run a benchmark; exit with one line for an error that its user can mend.

    SIGTERM acts as Ctrl-C: the processes that the benchmark started are ended.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        main()
    except FedgrassError as error:
        print(f"{question}: {error}", file=sys.stderr)
        sys.exit(_USAGE if isinstance(error, record.RecordFault) else 1)
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
