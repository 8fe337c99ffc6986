"""The worker as a real process with unmodified boto3, against a small HTTP server in place of S3."""

import os
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from components.runtime.event_loop import EventLoop
from components.trainer.tasks.noise import Noise
from components.trainer.worker.resource_limits import ResourceLimits
from components.trainer.worker.worker_process import WorkerProcess, describe_exit
from components.trainer.worker.worker_protocol import (
    Answer,
    Failure,
    Progress,
    Result,
    TaskOptions,
    Waiting,
    WorkOrder,
)
from fedgrass.federation import weights
from tests.fakes.memory_device import announcement

PATIENCE = 30.0  # seconds
NOISE: TaskOptions = {"megabytes": 0.1, "device": "press-1"}
MODEL = weights.encode(Noise(0.1).initial_weights(0))
DAMAGED = MODEL[:-1] + bytes([MODEL[-1] ^ 1])
BREAKS_OFF = b"(the connection ends in the middle of the model)"
Bodies = dict[str, list[bytes]]


@pytest.fixture
def bodies(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bodies]:
    """Bodies that the S3 stand-in returns for each path, in order; the last one is repeated."""
    served: Bodies = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            left = served.get(self.path, [b""])
            body = left.pop(0) if len(left) > 1 else left[0]
            self.send_response(200 if body else 404)
            self.send_header("Content-Length", str(len(MODEL) if body == BREAKS_OFF else len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    yield served
    server.shutdown()
    server.server_close()
    thread.join(PATIENCE)


class Desk:
    """Starts works and collects the answers."""

    def __init__(self, folder: Path) -> None:
        self.loop = EventLoop()
        self.lines: list[str] = []  # that the worker printed
        self.process = WorkerProcess(self.loop.post, add_line=self.lines.append)
        self.update = folder / "updates" / "update.safetensors"
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()

    def start(
        self,
        task: str = "noise",
        options: TaskOptions | None = None,
        packages: str = "",
        **announced: object,
    ) -> None:
        values: dict[str, object] = {
            "model_key": "models/m",
            "model_sha256": weights.sha256(MODEL),
            "model_bytes": len(MODEL),
            **announced,
        }
        work = WorkOrder(
            announcement=announcement(task=task, **values),  # type: ignore[arg-type]
            options=NOISE if options is None else options,
            packages=packages,
            update=str(self.update),
        )
        self.process.start(work, self._answers.put)

    def answer(self) -> Answer:
        """Return the next answer other than a Progress."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            self.loop.run_due()
            try:
                answer = self._answers.get(timeout=0.01)
            except queue.Empty:
                continue
            if not isinstance(answer, (Progress, Waiting)):
                return answer
        message = "the worker did not answer"
        raise TimeoutError(message)

    def progressed(self) -> None:
        """Wait for an answer of any kind."""
        until = time.monotonic() + PATIENCE
        while self._answers.empty() and time.monotonic() < until:
            self.loop.run_due()
            time.sleep(0.01)
        assert not self._answers.empty()

    def failure(self) -> str:
        answer = self.answer()
        assert isinstance(answer, Failure)
        assert "\n" not in answer.reason
        return answer.reason

    @property
    def pid(self) -> int:
        assert self.process._process
        return self.process._process.pid


@pytest.fixture
def desk(tmp_path: Path, bodies: Bodies) -> Iterator[Desk]:
    bodies["/fleet-bucket/models/m"] = [MODEL]
    desk = Desk(tmp_path)
    yield desk
    desk.process.close()


def own(name: str, **options: bool | float | str) -> TaskOptions:
    return {"module": f"tests.integration.device.slow_tasks:{name}", **options}


def gone(pid: int) -> bool:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.01)
    return False


def test_the_update_is_the_model_with_the_devices_own_change(desk: Desk) -> None:
    desk.start()
    answer = desk.answer()
    assert isinstance(answer, Result)
    data = desk.update.read_bytes()
    assert answer.bytes == len(data)
    assert answer.checksum == weights.checksum(data)
    assert answer.examples == 100
    update, model = weights.decode(data), weights.decode(MODEL)
    for name in model:
        np.testing.assert_allclose(
            update[name].astype(float) - model[name].astype(float), answer.train_metrics["change"], atol=1e-6
        )


def test_an_evaluation_writes_no_file(desk: Desk) -> None:
    desk.start(work="evaluate")
    answer = desk.answer()
    assert isinstance(answer, Result)
    assert (answer.bytes, answer.checksum) == (0, weights.checksum(b""))
    assert not desk.update.exists()


def test_the_process_is_used_again(desk: Desk) -> None:
    desk.start()
    desk.answer()
    first = desk.pid
    desk.start()
    assert isinstance(desk.answer(), Result)
    assert desk.pid == first


def test_a_model_that_was_damaged_once_is_downloaded_again(desk: Desk, bodies: Bodies) -> None:
    bodies["/fleet-bucket/models/m"] = [DAMAGED, MODEL]
    desk.start()
    assert isinstance(desk.answer(), Result)


def test_a_model_with_a_wrong_hash_fails_naming_both(desk: Desk, bodies: Bodies) -> None:
    bodies["/fleet-bucket/models/m"] = [DAMAGED]
    desk.start()
    reason = desk.failure()
    assert weights.sha256(DAMAGED) in reason
    assert weights.sha256(MODEL) in reason
    assert not desk.update.exists()


def test_a_model_that_is_not_there_fails_naming_it(desk: Desk) -> None:
    desk.start(model_key="models/none")
    assert "s3://fleet-bucket/models/none cannot be downloaded" in desk.failure()


def test_a_model_of_another_size_fails_naming_both_sizes(desk: Desk) -> None:
    desk.start(model_bytes=17)
    assert f"has {len(MODEL)} bytes, 17 were announced" in desk.failure()


def test_a_mistake_in_a_users_task_is_one_line_with_its_place(desk: Desk) -> None:
    desk.start("camera", own("Broken"))
    reason = desk.failure()
    assert reason.startswith("task 'camera' failed: KeyError: 'front' (")
    assert "slow_tasks.py:" in reason


def test_what_a_users_task_prints_does_not_disturb_the_answers(desk: Desk) -> None:
    desk.start("camera", own("Broken"))
    desk.failure()
    desk.start()
    assert isinstance(desk.answer(), Result)


def test_what_a_worker_prints_and_its_tracebacks_are_log_lines_and_reach_the_component_s_log_too(
    desk: Desk, capfd: pytest.CaptureFixture[str]
) -> None:
    desk.start("camera", own("Broken"))
    desk.failure()
    desk.process.close()
    until = time.monotonic() + PATIENCE
    while "KeyError: 'front'" not in desk.lines and time.monotonic() < until:
        time.sleep(0.01)
    assert "a C library prints too" in desk.lines
    assert "KeyError: 'front'" in desk.lines
    assert any("slow_tasks.py" in line for line in desk.lines)
    assert "a C library prints too" in capfd.readouterr().err


def test_a_task_that_cannot_be_found_fails_naming_it(desk: Desk) -> None:
    desk.start("camera", own("Absent"))
    assert "task 'camera' cannot be loaded from tests.integration.device.slow_tasks:Absent" in desk.failure()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Diverging", "array 'bias' has 250 values that are not finite"),
        ("Reshaping", "array 'bias' has the shape"),
    ],
)
def test_an_update_that_the_cloud_would_refuse_is_not_written(desk: Desk, name: str, text: str) -> None:
    desk.start("odd", own(name))
    assert text in desk.failure()
    assert not desk.update.exists()


def test_a_worker_that_dies_is_a_failure_with_the_way_it_died(desk: Desk) -> None:
    desk.start("dying", own("Dying"))
    assert desk.failure() == "the worker was killed (SIGKILL): the system may have run out of memory"
    desk.start()
    assert isinstance(desk.answer(), Result)


@pytest.mark.parametrize("code", [0, 3])
def test_a_task_that_ends_the_workers_process_is_named(desk: Desk, code: int) -> None:
    desk.start("leaving", own("Exiting", code=code))
    expected = (
        f"the worker exited unexpectedly with exit code {code}: the code of task 'leaving' may have called"
        " os._exit, or a library ended it"
    )
    assert desk.failure() == expected
    desk.start()
    assert isinstance(desk.answer(), Result)


@pytest.mark.parametrize("deaf", [False, True])
def test_a_worker_in_the_middle_of_a_training_can_be_ended(desk: Desk, deaf: bool) -> None:  # noqa: FBT001 - a parameter of pytest
    desk.start("endless", own("Endless", deaf=deaf))
    desk.progressed()
    pid = desk.pid
    started = time.monotonic()
    desk.process.close()
    assert gone(pid)
    assert time.monotonic() - started < PATIENCE  # the training would last far longer
    desk.start()
    assert isinstance(desk.answer(), Result)


def test_a_worker_ends_with_the_trainer(desk: Desk) -> None:
    desk.start("endless", own("Endless", deaf=True))
    desk.progressed()
    pid = desk.pid
    # As the kernel does when the trainer has died.
    assert desk.process._process
    assert desk.process._process.stdin
    desk.process._process.stdin.close()
    desk.process._process.wait(PATIENCE)
    assert gone(pid)


@pytest.mark.parametrize("task", ["Forking", "Returning"])
def test_a_task_may_fork(desk: Desk, task: str) -> None:
    desk.start(options=own(task))
    assert isinstance(desk.answer(), Result)


def test_what_a_dead_worker_left_behind_hides_nothing_and_is_ended(desk: Desk, tmp_path: Path) -> None:
    note = tmp_path / "child"
    desk.start(options=own("Leaving", note=str(note)))
    assert "SIGKILL" in desk.failure()
    assert gone(int(note.read_text()))


def test_numbers_of_numpy_are_taken(desk: Desk) -> None:
    desk.start(options=own("Counting"))
    answer = desk.answer()
    assert isinstance(answer, Result)
    assert (answer.examples, answer.examples_of_task) == (7, 9)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"counted": 7.5}, "trained on .*7.5.* examples"),
        ({"counted": 0}, "trained on .*0.* examples"),
        ({"total": -5}, "has .*-5.* examples"),
    ],
)
def test_an_impossible_number_of_examples_is_refused(
    desk: Desk, options: dict[str, float], reason: str
) -> None:
    desk.start(options=own("Counting", **options))
    assert re.search(reason, desk.failure())


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("surrogate", r"no file \\udcff"),
        ("no text", "_NoText"),
        ("interrupt", "task 'noise' failed: KeyboardInterrupt"),
        ("exit", r"task 'noise' failed: SystemExit: 3 \(.*slow_tasks\.py:\d+\)"),
        ("another", r"task 'noise' failed: Another: odd"),
    ],
)
def test_whatever_a_task_raises_is_reported_in_one_line(desk: Desk, what: str, reason: str) -> None:
    desk.start(options=own("Raising", what=what))
    assert re.search(reason, desk.failure())


def test_a_task_that_asks_at_the_terminal_gets_no_answer_and_does_not_wait(desk: Desk) -> None:
    desk.start(options=own("Asking"))
    assert "EOFError" in desk.failure()


def test_a_line_that_is_not_an_answer_does_not_hide_the_workers_end(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = "import sys; sys.stdin.readline(); print('hello'); sys.stdout.flush(); sys.stdin.read()"
    monkeypatch.setattr("components.trainer.worker.worker_process.COMMAND", (sys.executable, "-c", program))
    desk.start()
    assert "cannot be decoded" in desk.failure()


def test_a_signal_without_a_name_is_reported_by_its_number() -> None:
    assert describe_exit(-40) == "was ended by signal 40"


def test_a_download_that_breaks_off_is_tried_again(desk: Desk, bodies: Bodies) -> None:
    bodies["/fleet-bucket/models/m"] = [BREAKS_OFF, MODEL]
    desk.start()
    assert isinstance(desk.answer(), Result)


def test_the_trainer_exits_though_an_upload_hangs() -> None:
    """Like boto3, the upload uses a thread pool, for which Python waits at exit."""
    program = """
import concurrent.futures, runpy, threading
from components.trainer import trainer_main
def run(*_):
    concurrent.futures.ThreadPoolExecutor(1).submit(threading.Event().wait)
    return 75
trainer_main.main = run
runpy.run_module("components.trainer.__main__")
"""
    done = subprocess.run([sys.executable, "-c", program], timeout=PATIENCE, check=False)
    assert done.returncode == 75


def test_a_training_that_is_asked_for_what_it_has_gives_a_part(desk: Desk) -> None:
    desk.start("patient", own("Patient"), allow_partial=True)
    desk.progressed()
    desk.process.stop_early("another/1/1")
    desk.process.stop_early("run-a/1/1")
    answer = desk.answer()
    assert isinstance(answer, Result)
    assert (answer.partial, answer.examples, answer.examples_of_task) == (True, 7, 9)
    assert answer.checksum == weights.checksum(desk.update.read_bytes())


def test_a_part_that_the_run_does_not_take_is_a_failure(desk: Desk) -> None:
    desk.start("patient", own("Patient"))
    desk.progressed()
    desk.process.stop_early("run-a/1/1")
    assert desk.failure() == "the training was stopped after 7 examples"


def test_the_work_after_one_that_was_asked_to_finish_is_done_in_full(desk: Desk) -> None:
    desk.start("patient", own("Patient"), allow_partial=True)
    desk.progressed()
    desk.process.stop_early("run-a/1/1")
    assert isinstance(desk.answer(), Result)
    desk.start(options=own("Heeding"), allow_partial=True, number=2)
    answer = desk.answer()
    assert isinstance(answer, Result)
    assert not answer.partial


def measured(desk: Desk) -> dict[str, float]:
    desk.start(options=own("Bounded"))
    answer = desk.answer()
    assert isinstance(answer, Result)
    return answer.train_metrics


def test_a_training_is_bounded_as_the_configuration_says(desk: Desk) -> None:
    desk.process.bounds = ResourceLimits(threads=2, niceness=7, memory_megabytes=900)
    found = measured(desk)
    own_niceness = os.getpriority(os.PRIO_PROCESS, 0)
    assert (found["niceness"], found["threads"]) == (min(19, own_niceness + 7), 2)
    assert (found["memory"], found["oom"]) == (900e6, 500)


def test_packages_of_a_task_are_importable_and_never_mixed_with_another_version(
    desk: Desk, tmp_path: Path
) -> None:
    """A package is imported once in a process, so other packages need another one."""
    (tmp_path / "own.py").write_text(
        "from components.trainer.tasks.noise import Noise\n"
        "class Own(Noise):\n"
        "    def fit(self, *given):\n"
        "        import os, cracklib, numpy\n"
        "        fit = super().fit(*given)\n"
        "        fit.metrics.update(process=os.getpid(), cracklib=cracklib.NUMBER)\n"
        "        assert 'site-packages' in numpy.__file__\n"
        "        return fit\n"
    )
    options: TaskOptions = {**NOISE, "module": "own:Own", "path": str(tmp_path)}
    found = []
    for number in (1, 1, 2):
        packages = tmp_path / f"packages-{number}"
        packages.mkdir(exist_ok=True)
        (packages / "cracklib.py").write_text(f"NUMBER = {number}")
        (packages / "numpy.py").write_text("raise ImportError('it hides the numpy of the trainer')")
        desk.start("own", options, str(packages))
        answer = desk.answer()
        assert isinstance(answer, Result), answer
        found.append(answer.train_metrics)
    assert [one["cracklib"] for one in found] == [1, 1, 2]
    assert found[0]["process"] == found[1]["process"] != found[2]["process"]
    desk.start("own", options)
    answer = desk.answer()
    assert isinstance(answer, Failure)
    assert "No module named 'cracklib'" in answer.reason
    assert not answer.unloadable


@pytest.mark.parametrize(
    ("code", "unloadable"),
    [
        ("import nothing_of_this_name", True),
        ("raise ValueError", True),
        ("def other(): ...", True),
        ("class Own:\n    def __init__(self, folder): ...", True),
        ("class Own:\n    def __init__(self, **options): open('/no/data')", False),
        ("class Own:\n    def __init__(self, **options): ...", False),
    ],
)
def test_a_failure_says_whether_the_class_or_something_else_is_at_fault(
    desk: Desk,
    tmp_path: Path,
    code: str,
    unloadable: bool,  # noqa: FBT001 - a parameter of pytest
) -> None:
    (tmp_path / "own.py").write_text(code)
    desk.start("own", {"megabytes": 1, "module": "own:Own", "path": str(tmp_path)})
    answer = desk.answer()
    assert isinstance(answer, Failure)
    assert answer.unloadable is unloadable, answer.reason


def test_changed_bounds_reach_a_warm_worker_and_equal_ones_keep_it(desk: Desk) -> None:
    first = measured(desk)
    desk.process.bounds = ResourceLimits(threads=1)
    assert measured(desk)["process"] == first["process"]
    desk.process.bounds = ResourceLimits(threads=3)
    second = measured(desk)
    assert second["threads"] == 3
    assert second["process"] != first["process"]
    assert gone(int(first["process"]))


# PyTorch with its parts for GPUs does not load within 600 MB.
@pytest.mark.parametrize(
    ("of", "megabytes", "reason"), [("numpy", 600, "memory_megabytes allows"), ("torch", 900, "memory")]
)
def test_a_training_that_wants_more_memory_than_it_may_have_fails_with_the_reason(
    desk: Desk, of: str, megabytes: int, reason: str
) -> None:
    desk.process.bounds = ResourceLimits(memory_megabytes=megabytes)
    desk.start(options=own("Hungry", of=of))
    assert reason in desk.failure()
    assert measured(desk)["process"] == desk.pid


def test_bounds_that_cannot_be_set_are_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    ResourceLimits(memory_megabytes=5).apply_to(2**22 + 1)  # there is not a process id
    assert "cannot apply the resource limits" in caplog.text
