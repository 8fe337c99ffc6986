"""Ask all questions in turn: ``python -m benchmarks [--only QUESTION ...] [--quick] [--record]``.

A question that fails does not stop the others; the exit code is then 1. The last lines are a table of all
questions with their times. ``make bench`` runs this. With --record, docs/benchmarks.md is written again.
"""

import argparse
import signal
import subprocess
import sys
from pathlib import Path

from benchmarks.measuring.question_runner import Outcome, ask, summary
from benchmarks.measuring.questions import QUESTIONS

_ROOT = Path(__file__).parents[1]
_INTERRUPTED = 130


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [question.name for question in QUESTIONS]
    parser.add_argument(
        "--only", nargs="+", metavar="QUESTION", choices=names, default=names, help=", ".join(names)
    )
    options, words = parser.parse_known_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    outcomes: list[Outcome] = []
    code = 0
    try:
        for question in QUESTIONS:
            if question.name in options.only:
                print(f"\n== {question.name}: {question.title}", flush=True)
                outcomes.append(ask(question, words, _ROOT))
    except KeyboardInterrupt:
        code = _INTERRUPTED
    print("\n" + summary(outcomes), flush=True)
    if "--record" in words:
        written = subprocess.run([sys.executable, "docs/write_benchmarks.py"], cwd=_ROOT, check=False)
        code = code or written.returncode
    return code or int(any(outcome.failure for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
