"""A user's task in a process of its own: whatever ends that process, the command reports it.

A task may call ``os._exit``, a library may crash, the system may kill a process for its memory: none of that
can be caught inside. So ``fedgrass task check`` and ``weights`` start a child, which writes each step that it
begins, and its exit code at last, into a pipe; where no exit code came, the parent says how the child ended.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module

import msgspec

from fedgrass.console.interruption import ended_by_signals
from fedgrass.console.terminal import accept_all_characters, complain
from fedgrass.federation.errors import FedgrassError

# The current folder is on no path of the child's: a file there could hide one of the standard library.
_BOOT = """import sys
sys.path[:] = sys.argv[4].split("\\n")
from fedgrass.local.task_process import _child
_child()
"""
_DONE = "done "
_ENOUGH = 1 << 16  # bytes, more than all steps have
_TERMINATE_SECONDS = 5.0
Note = Callable[[str], None]


def in_process_of_its_own(function: str, options: object, say: Callable[[str], None]) -> int:
    """Run ``module:function`` in a child; return its exit code.

    Args:
        function: takes the options as plain values and a callable to note each step with; returns the exit
            code. Raises FedgrassError for a mistake of the user.
        options: a msgspec or dataclass object, or plain values.
        say: is told how the child ended, if it did not return.
    """
    reading, writing = os.pipe()
    words = [function, msgspec.json.encode(options, enc_hook=str).decode(), str(writing), "\n".join(sys.path)]
    try:
        with subprocess.Popen([sys.executable, "-c", _BOOT, *words], pass_fds=[writing]) as child:  # noqa: S603
            try:
                exit_code = child.wait()
            except BaseException:  # the command itself is to end
                _end(child)
                raise
        os.set_blocking(reading, False)
        noted = _noted(reading)
    finally:
        os.close(reading)
        os.close(writing)
    if noted and noted[-1].startswith(_DONE):
        return int(noted[-1].removeprefix(_DONE))
    step = noted[-1] if noted else "start"
    say(f"FAIL  {step}: the task {_how(exit_code)}")
    return 1


def _noted(reading: int) -> list[str]:
    try:
        return os.read(reading, _ENOUGH).decode().splitlines()
    except BlockingIOError:
        return []


def _how(exit_code: int) -> str:
    if exit_code >= 0:
        return (
            f"ended its process with exit code {exit_code}, by os._exit or inside a library: it has to"
            " return, or to raise an error"
        )
    known = -exit_code in set(signal.Signals)
    name = signal.Signals(-exit_code).name if known else f"signal {-exit_code}"
    why = "the system may have run out of memory" if -exit_code == signal.SIGKILL else "a library crashed"
    return f"was ended by {name}: {why}"


def _end(child: "subprocess.Popen[bytes]") -> None:
    child.terminate()
    try:
        child.wait(_TERMINATE_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()


def _child() -> None:
    """Run what the command line names: the main function of the child."""
    function, options, writing = sys.argv[1], msgspec.json.decode(sys.argv[2]), int(sys.argv[3])
    os.set_inheritable(writing, False)  # noqa: FBT003
    accept_all_characters()
    sys.argv[1:] = []  # the task's code must not take them for its own

    def note(text: str) -> None:
        os.write(writing, f"{text}\n".encode())

    module, _, name = function.partition(":")
    try:
        with ended_by_signals():
            code = getattr(import_module(module), name)(options, note)
    except KeyboardInterrupt:
        sys.exit(130)
    except FedgrassError as error:
        complain(f"fedgrass: {error}")  # as the command itself does
        code = 1
    except Exception as error:  # noqa: BLE001 - a line, and never a traceback of ours
        from fedgrass.local.task_loading import explain  # noqa: PLC0415

        complain(f"fedgrass: {explain(error)}")
        code = 1
    sys.stdout.flush()
    note(f"{_DONE}{code}")
    os._exit(code)  # threads that the task left behind end with it
