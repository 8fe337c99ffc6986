"""Run a user's task in a child process, so that the command can report a crash.

A task may call ``os._exit``, a library may crash, and the system may kill a process for its memory use; no
handler in the process can catch these. The child writes the name of each step and finally its exit code to a
pipe. If the exit code is missing, the parent reports how the child ended.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module

import msgspec

from fedgrass.console.interruption import ended_by_signals
from fedgrass.console.terminal import accept_all_characters, complain, say
from fedgrass.federation.errors import FedgrassError
from fedgrass.local.task_loading import explain

# Unbuffered (-u), so that what the task printed before a crash is shown. The current folder is not on the
# module path of the child: a file there could hide a standard module.
_BOOT = """import sys
sys.path[:] = sys.argv[4].split("\\n")
from fedgrass.local.task_process import _child
_child()
"""
_DONE = "done "
_PIPE_BYTES = 1 << 16  # more than the names of all steps
_TERMINATE_SECONDS = 5.0


def run_in_child(function: str, options: object, report: Callable[[str], None]) -> int:
    """Run ``module:function`` in a child process; return its exit code.

    Args:
        function: receives the options as plain values, and a callable to record each step; returns the exit
            code. Raises FedgrassError for an error of the user.
        options: a msgspec or dataclass object, or plain values.
        report: called with a line on how the child ended, if it did not return.
    """
    reading, writing = os.pipe()
    words = [function, msgspec.json.encode(options, enc_hook=str).decode(), str(writing), "\n".join(sys.path)]
    try:
        with subprocess.Popen([sys.executable, "-u", "-c", _BOOT, *words], pass_fds=[writing]) as child:  # noqa: S603 - no shell
            try:
                exit_code = child.wait()
            except BaseException:  # the command itself is interrupted
                _end(child)
                raise
        os.set_blocking(reading, False)
        steps = _read_steps(reading)
    finally:
        os.close(reading)
        os.close(writing)
    if steps and steps[-1].startswith(_DONE):
        return int(steps[-1].removeprefix(_DONE))
    step = steps[-1] if steps else "start"
    report(f"FAIL  {step}: the task {_describe_end(exit_code)}")
    return 1


@contextmanager
def time_limit(
    seconds: float, note: Callable[[str], None], failure: str, report: Callable[[str], None] = say
) -> Iterator[None]:
    """End the child process with exit code 1 and a line if the block takes longer, whatever it does.

    Args:
        seconds: the limit.
        note: records a step, as the function of the child got it.
        failure: the line to report.
        report: called with it.
    """

    def end() -> None:
        report(failure)
        sys.stdout.flush()
        note(f"{_DONE}1")
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _read_steps(reading: int) -> list[str]:
    try:
        return os.read(reading, _PIPE_BYTES).decode().splitlines()
    except BlockingIOError:
        return []


def _describe_end(exit_code: int) -> str:
    if exit_code >= 0:
        return (
            f"ended its process with exit code {exit_code}, by os._exit or in a library: it must return or"
            " raise an error"
        )
    known = -exit_code in set(signal.Signals)
    name = signal.Signals(-exit_code).name if known else f"signal {-exit_code}"
    why = "the system may have run out of memory" if -exit_code == signal.SIGKILL else "a library crashed"
    return f"was killed by {name}: {why}"


def _end(child: "subprocess.Popen[bytes]") -> None:
    child.terminate()
    try:
        child.wait(_TERMINATE_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()


def _child() -> None:
    """Run the function that the command line names: the main function of the child."""
    function, options, writing = sys.argv[1], msgspec.json.decode(sys.argv[2]), int(sys.argv[3])
    os.set_inheritable(writing, False)  # noqa: FBT003 - positional only
    accept_all_characters()
    sys.argv[1:] = []  # the task must not parse them as its own arguments

    def note(text: str) -> None:
        os.write(writing, f"{text}\n".encode())

    module, _, name = function.partition(":")
    try:
        with ended_by_signals():
            code = getattr(import_module(module), name)(options, note)
    except KeyboardInterrupt:
        sys.exit(130)
    except FedgrassError as error:
        complain(f"fedgrass: {error}")  # like the command itself
        code = 1
    except Exception as error:  # noqa: BLE001 - report any error in one line, without a traceback
        complain(f"fedgrass: {explain(error)}")
        code = 1
    sys.stdout.flush()
    note(f"{_DONE}{code}")
    os._exit(code)  # without waiting for threads that the task left behind
