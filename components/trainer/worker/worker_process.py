"""The worker process as the trainer sees it: started when there is work, kept warm, ended for certain."""

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
from components.trainer.worker.resource_limits import ResourceLimits
from components.trainer.worker.worker_protocol import (
    Answer,
    Failure,
    Finish,
    Progress,
    Request,
    TokenExchange,
    Waiting,
    Work,
)

COMMAND = (sys.executable, "-m", "components.trainer.worker")
GRACE_SECONDS = 1.0  # for the worker to end by itself once its input is closed
# Made before any thread can: see fedgrass/federation/messages/__init__.py.
ANSWER: msgspec.json.Decoder[Answer] = msgspec.json.Decoder(Answer)
log = logging.getLogger(__name__)


class WorkerProcess:
    """A ``Worker``: a child process that talks in lines of JSON.

    Starting it is the dear part (importing torch takes seconds), so it stays after its work until
    :meth:`stop`. It ends by itself when its input is closed, so it never outlives the trainer.
    """

    def __init__(self, post: Callable[[Call], None], bounds: ResourceLimits | None = None) -> None:
        self.bounds = bounds or ResourceLimits()  # changed ones hold from the next work on
        self._post = post
        self._bounded = self.bounds  # those of the process that is there
        self._process: subprocess.Popen[bytes] | None = None
        self._answer: Callable[[Answer], None] | None = None
        self._task = ""  # of the work in hand
        self._ending: list[threading.Thread] = []

    def start(self, work: Work, answer: Callable[[Answer], None]) -> None:
        """Begin ``work``, in the process that is there or in a new one."""
        if self.bounds != self._bounded:
            self.stop()  # they are fixed when a process starts
        try:
            if self._process is None or self._process.poll() is not None:
                self._process = self._spawn()
            self._answer, self._task = answer, work.announcement.task
            _tell(self._process, work)
        except BrokenPipeError:
            # It died just now. Its reader will say so, and how; nothing more to do here.
            log.info("the worker ended before it could take its work")
        except OSError as error:
            reason = f"the worker cannot be started: {error}"
            self._post(lambda: answer(Failure(reason)))

    def finish(self, round_id: str) -> None:
        """Ask a work to end its training and give what it has."""
        if self._process is None:
            return
        try:
            _tell(self._process, Finish(round_id))
        except OSError as error:
            log.info("the worker cannot be asked to finish: %s", error)  # its reader tells of its end

    def find_credentials_at(self, address: str) -> None:
        """Have the process that is there ask for credentials at another address; a later one inherits it."""
        if self._process is None:
            return
        try:
            _tell(self._process, TokenExchange(address))
        except OSError as error:
            log.info("the worker cannot be given the address: %s", error)  # its reader tells of its end

    def stop(self) -> None:
        """End the process in the background; nothing is heard of it any more."""
        process, self._process, self._answer = self._process, None, None
        if process is None:
            return
        end = threading.Thread(target=_end, args=(process,), daemon=True, name="worker-end")
        end.start()
        self._ending = [*(thread for thread in self._ending if thread.is_alive()), end]

    def close(self) -> None:
        """End the process and wait until it is gone: less than two seconds."""
        self.stop()
        for thread in self._ending:
            thread.join(GRACE_SECONDS + 0.5)

    def _spawn(self) -> subprocess.Popen[bytes]:
        self._bounded = self.bounds
        environment = {**os.environ, **self._bounded.environment()}
        process = subprocess.Popen(  # noqa: S603 - this very interpreter and a module of ours
            COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, start_new_session=True
        )
        self._bounded.set_upon(process.pid)
        threading.Thread(target=self._read, args=(process,), daemon=True, name="worker-read").start()
        return process

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        for line in _output(process):
            try:
                answer = ANSWER.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                # This thread has to live on: it is the one that sees the worker's end.
                log.warning("the worker said what is no answer: %s", error)
                answer = Failure(f"the worker gave an answer that cannot be read: {error}")
            self._post(partial(self._heard, process, answer))
        exit_code = process.wait()
        _kill_group(process)
        _output(process).close()
        self._post(partial(self._ended, process, exit_code))

    def _heard(self, process: subprocess.Popen[bytes], answer: Answer) -> None:
        if process is not self._process or self._answer is None:
            return  # of work that was given up meanwhile
        tell = self._answer
        if not isinstance(answer, (Progress, Waiting)):
            self._answer = None
        tell(answer)

    def _ended(self, process: subprocess.Popen[bytes], exit_code: int) -> None:
        if process is not self._process:
            return
        self._process = None
        tell, self._answer = self._answer, None
        log.warning("the worker %s", _how(exit_code))
        if tell:
            whose = f"the code of task {self._task!r} may have called os._exit, or a library ended it"
            tell(Failure(f"the worker {_how(exit_code)}" + (f": {whose}" if exit_code >= 0 else "")))


def _tell(process: "subprocess.Popen[bytes]", request: Request) -> None:
    _input(process).write(msgspec.json.encode(request) + b"\n")
    _input(process).flush()


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        _input(process).close()
    except BrokenPipeError:
        log.debug("the worker had ended already")
    try:
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        _kill_group(process)
        process.wait(GRACE_SECONDS)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a worker with all that the user's code started in it."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        log.debug("nothing is left of the worker")


def _how(exit_code: int) -> str:
    if exit_code == -signal.SIGKILL:
        return "was killed (SIGKILL): the system may have run out of memory"
    if exit_code < 0:
        # The real-time signals have no names of their own.
        known = -exit_code in set(signal.Signals)
        return f"was ended by {signal.Signals(-exit_code).name if known else f'signal {-exit_code}'}"
    return f"ended in the middle with exit code {exit_code}"


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
