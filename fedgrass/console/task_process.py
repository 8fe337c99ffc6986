"""Runs a task of the person's own in a separate process: whatever the task does there can be reported.

It may call ``os._exit``, crash in a native library, be killed for its memory, or raise what no ``except
Exception`` catches.
"""

import multiprocessing
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from fedgrass.console.terminal import accept_all_characters
from fedgrass.federation.errors import FedgrassError

STOP_SECONDS = 5.0


def run_apart(work: Callable[[Any], int], options: Any, report: Callable[[str], None]) -> int:
    """Run ``work(options)`` in a new process; return what it returns, an exit code.

    Args:
        work: a function of a module; prints on its own.
        options: for it; pickled, as it comes from the same command line.
        report: prints a line if the process or the task ends in another way; a function of a module.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(work, options, report, sender))
    process.start()
    sender.close()
    try:
        code = _received(receiver)
        process.join()
    finally:
        _end(process)
        receiver.close()
    if code is not None:
        return code
    report(_ending(process.exitcode or 0))
    return 1


def _run(work: Callable[[Any], int], options: Any, report: Callable[[str], None], sender: Connection) -> None:
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # the parent ends this process: an interrupt is the task's own
    accept_all_characters()
    try:
        code = work(options)
    except FedgrassError as error:
        report(str(error))
        code = 1
    except BaseException as error:  # noqa: BLE001  # the person's code may raise anything
        from fedgrass.local.task_mistakes import explain  # noqa: PLC0415

        report(explain(error))
        code = 1
    sys.stdout.flush()
    sender.send(code)


def _received(receiver: Connection) -> int | None:
    try:
        return int(receiver.recv())
    except EOFError:
        return None


def _end(process: Any) -> None:
    if process.is_alive():
        process.terminate()
        process.join(STOP_SECONDS)
    if process.is_alive():
        process.kill()
        process.join()


def _ending(exitcode: int) -> str:
    if exitcode < 0:
        return (
            f"the task's process was ended by {signal.Signals(-exitcode).name}: a library has crashed, or the"
            " memory did not suffice"
        )
    return (
        f"the task ended its own process with exit code {exitcode} (os._exit): a task returns or raises,"
        " since the trainer would end with it"
    )
