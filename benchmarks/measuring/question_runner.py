"""Runs one benchmark after the other, and keeps how each ended."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from benchmarks.measuring.questions import Question

_LEAST_SECONDS = 300.0  # that any question may take: a busy machine is slower
_TIMES_AS_LONG = 3  # as on a quiet machine
_END_SECONDS = 30.0  # for a benchmark to end its processes


@dataclass(frozen=True)
class Outcome:
    """How a question ended."""

    question: str
    seconds: float
    failure: str  # empty: it was answered


def ask(question: Question, words: Sequence[str], root: Path, limit: float | None = None) -> Outcome:
    """Run a benchmark, print its output as it comes, and return how it ended.

    Args:
        question: which.
        words: its options.
        root: the checkout.
        limit: seconds after which it is ended; three times what it takes on a quiet machine if None.
    """
    seconds = max(_LEAST_SECONDS, _TIMES_AS_LONG * 60 * question.minutes) if limit is None else limit
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", f"benchmarks.{question.name}", *words],
        cwd=root,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # it and all its processes can be ended together
    )
    lines: list[str] = []
    reader = threading.Thread(target=_copy, args=(process.stdout, lines), daemon=True)
    reader.start()
    failure = ""
    try:
        code = process.wait(seconds)
        failure = f"exit code {code}" if code else ""
    except subprocess.TimeoutExpired:
        failure = f"not done in {seconds:.0f} s"
    finally:
        _end(process)
    reader.join(_END_SECONDS)
    if not failure and not _is_object(lines[-1] if lines else ""):
        failure = "its last line is not a JSON object"
    return Outcome(question.name, time.monotonic() - began, failure)


def _copy(output: IO[str], lines: list[str]) -> None:
    for line in output:
        print(line, end="", flush=True)
        lines.append(line)


def _end(process: subprocess.Popen[str]) -> None:
    """End a benchmark that still runs: as Ctrl-C does, so that it ends its own processes, then by force."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except json.JSONDecodeError:
        return False


def summary(outcomes: Sequence[Outcome]) -> str:
    """Return a table of how the questions ended, with their times."""
    width = max([len("question"), *(len(outcome.question) for outcome in outcomes)])
    rows = [f"{'question':{width}}  seconds  result"]
    rows += [f"{one.question:{width}}  {one.seconds:7.1f}  {one.failure or 'ok'}" for one in outcomes]
    failed = sum(bool(outcome.failure) for outcome in outcomes)
    total = sum(outcome.seconds for outcome in outcomes) / 60
    rows.append(f"{len(outcomes) - failed} of {len(outcomes)} answered in {total:.1f} minutes")
    return "\n".join(rows)
