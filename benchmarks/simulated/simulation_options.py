"""The options that all benchmarks of simulations have."""

import argparse
from collections.abc import Sequence
from pathlib import Path

_SEEDS = (1, 2, 3)


def add_simulation_options(parser: argparse.ArgumentParser, parts: Sequence[str], picture: str) -> None:
    """Add the options to a parser of ``benchmark_parser``.

    Args:
        parser: of the benchmark.
        parts: what the benchmark can measure alone.
        picture: what the picture shows, for the help.
    """
    names = ", ".join(parts)
    parser.add_argument("--only", nargs="+", choices=parts, metavar="PART", help=f"of: {names}")
    parser.add_argument("--workers", type=_count, help="processes that train (2; with --quick 1)")
    parser.add_argument("--picture", type=_picture, metavar="FILE", help=f"a PNG of {picture}")


def seeds_of(options: argparse.Namespace) -> Sequence[int]:
    """Return the seeds: one with ``--quick``, otherwise three."""
    return _SEEDS[:1] if options.quick else _SEEDS


def workers_of(options: argparse.Namespace) -> int:
    """Return the number of worker processes."""
    return options.workers or (1 if options.quick else 2)


def _count(text: str) -> int:
    """Return a number of processes. Raises ArgumentTypeError for anything below 1."""
    if not text.isdecimal() or int(text) < 1:
        message = f"{text!r} is not a number of processes: give 1 or more"
        raise argparse.ArgumentTypeError(message)
    return int(text)


def _picture(text: str) -> Path:
    """Return the path of a picture, checked before a long measurement. Raises ArgumentTypeError."""
    path = Path(text)
    if not path.parent.is_dir() or path.is_dir():
        message = f"{text!r} is not a file in a folder that exists: create the folder, or choose another"
        raise argparse.ArgumentTypeError(message)
    return path
