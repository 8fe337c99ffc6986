"""The trainer's side of the worker process: starts it for work, keeps it warm, and makes sure that it ends.

Requests are written to its stdin. A thread per process reads its answers and posts them to the event loop of
the main thread, where all methods of ``WorkerProcess`` run.
"""

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import IO

import msgspec

from components.runtime.event_loop import Call
from components.trainer.device_log.worker_output import AddLine, forward_output
from components.trainer.worker.resource_limits import ResourceLimits
from components.trainer.worker.worker_protocol import (
    Answer,
    Failure,
    Progress,
    Request,
    StopEarly,
    TokenExchange,
    Waiting,
    WorkOrder,
)

COMMAND = (sys.executable, "-m", "components.trainer.worker")
_GRACE_SECONDS = 1.0  # for the worker to exit by itself once its input is closed
# Created before any thread starts: see fedgrass/federation/messages/message_codec.py.
_ANSWER: msgspec.json.Decoder[Answer] = msgspec.json.Decoder(Answer)
log = logging.getLogger(__name__)


class WorkerProcess:
    """Implements ``Worker`` with a child process that exchanges lines of JSON.

    Starting the process is expensive (importing torch takes seconds), so it is kept after its work until
    :meth:`stop`. It exits when its input is closed, so it never outlives the trainer.

    Args:
        post: schedules a call on the main thread.
        bounds: the resource limits of the process.
        add_line: called, on another thread, with each line that the process prints.
    """

    def __init__(
        self,
        post: Callable[[Call], None],
        bounds: ResourceLimits | None = None,
        add_line: AddLine | None = None,
    ) -> None:
        self.bounds = bounds or ResourceLimits()  # a change takes effect with the next work
        self._post = post
        self._add_line = add_line
        self._applied = self.bounds  # the limits of the running process
        self._packages = ""  # of the running process: the folder of its task's own requirements
        self._process: subprocess.Popen[bytes] | None = None
        self._answer: Callable[[Answer], None] | None = None
        self._task = ""  # of the current work
        self._ending: list[threading.Thread] = []

    def start(self, work: WorkOrder, answer: Callable[[Answer], None]) -> None:
        """Start ``work`` in the running process, or in a new one.

        Args:
            work: the assignment.
            answer: called on the main thread with each answer about it.
        """
        if self.bounds != self._applied or work.packages != self._packages:
            self.stop()  # limits are fixed when a process starts, and a package is imported once
        self._packages = work.packages
        try:
            if self._process is None or self._process.poll() is not None:
                self._process = self._spawn()
            self._answer, self._task = answer, work.announcement.task
            _send(self._process, work)
        except BrokenPipeError:
            # It has just died. The thread that reads from it will report that, and how.
            log.info("the worker ended before it received its work")
        except OSError as error:
            reason = f"the worker cannot be started: {error}"
            self._post(lambda: answer(Failure(reason)))

    def stop_early(self, round_id: str) -> None:
        """Ask the worker to stop the training of a round and to return the partial result."""
        self._notify(StopEarly(round_id))

    def find_credentials_at(self, address: str) -> None:
        """Notify the running process of a new token exchange address; a later process inherits it."""
        self._notify(TokenExchange(address))

    def _notify(self, request: StopEarly | TokenExchange) -> None:
        if self._process is None:
            return
        try:
            _send(self._process, request)
        except OSError as error:
            # The thread that reads from the worker reports its end.
            log.info("cannot send a %s to the worker: %s", type(request).__name__, error)

    def stop(self) -> None:
        """End the process in the background and ignore any further answer of it."""
        process, self._process, self._answer = self._process, None, None
        if process is None:
            return
        end = threading.Thread(target=_end, args=(process,), daemon=True, name="worker-end")
        end.start()
        self._ending = [*(thread for thread in self._ending if thread.is_alive()), end]

    def close(self) -> None:
        """End the process and wait until it has exited, for less than two seconds."""
        self.stop()
        for thread in self._ending:
            thread.join(_GRACE_SECONDS + 0.5)

    def _spawn(self) -> subprocess.Popen[bytes]:
        self._applied = self.bounds
        environment = {**os.environ, **self._applied.environment()}
        process = subprocess.Popen(  # noqa: S603 - the running interpreter and a module of this project
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if self._add_line else None,
            env=environment,
            start_new_session=True,
        )
        if process.stderr and self._add_line:
            forward_output(process.stderr, self._add_line)
        self._applied.apply_to(process.pid)
        threading.Thread(target=self._read, args=(process,), daemon=True, name="worker-read").start()
        return process

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        for line in _output(process):
            try:
                answer = _ANSWER.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                # Not raised: this thread has to continue, to detect the end of the worker.
                log.warning("cannot decode an answer of the worker: %s", error)
                answer = Failure(f"the worker sent an answer that cannot be decoded: {error}")
            self._post(partial(self._answered, process, answer))
        exit_code = process.wait()
        _kill_group(process)
        _output(process).close()
        self._post(partial(self._ended, process, exit_code))

    def _answered(self, process: subprocess.Popen[bytes], answer: Answer) -> None:
        if process is not self._process or self._answer is None:
            return  # the work has been abandoned since
        handler = self._answer
        if not isinstance(answer, (Progress, Waiting)):
            self._answer = None
        handler(answer)

    def _ended(self, process: subprocess.Popen[bytes], exit_code: int) -> None:
        if process is not self._process:
            return
        self._process = None
        handler, self._answer = self._answer, None
        log.warning("the worker %s", describe_exit(exit_code))
        if handler:
            cause = f"the code of task {self._task!r} may have called os._exit, or a library ended it"
            handler(
                Failure(f"the worker {describe_exit(exit_code)}" + (f": {cause}" if exit_code >= 0 else ""))
            )


def _send(process: "subprocess.Popen[bytes]", request: Request) -> None:
    _input(process).write(msgspec.json.encode(request) + b"\n")
    _input(process).flush()


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        _input(process).close()
    except BrokenPipeError:
        log.debug("the worker had already exited")
    try:
        process.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        _kill_group(process)
        process.wait(_GRACE_SECONDS)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a worker and every process that the user's code has started in it."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        log.debug("no process of the worker is left")


def describe_exit(exit_code: int) -> str:
    """Return how a worker that should be running has ended, in words."""
    if exit_code == -signal.SIGKILL:
        return "was killed (SIGKILL): the system may have run out of memory"
    if exit_code < 0:
        # The real-time signals have no name in signal.Signals.
        known = -exit_code in set(signal.Signals)
        return f"was ended by {signal.Signals(-exit_code).name if known else f'signal {-exit_code}'}"
    return f"exited unexpectedly with exit code {exit_code}"


def _input(process: subprocess.Popen[bytes]) -> IO[bytes]:
    if process.stdin is None:
        message = "the worker was started without a pipe to write to"
        raise RuntimeError(message)
    return process.stdin


def _output(process: subprocess.Popen[bytes]) -> IO[bytes]:
    if process.stdout is None:
        message = "the worker was started without a pipe to read from"
        raise RuntimeError(message)
    return process.stdout
