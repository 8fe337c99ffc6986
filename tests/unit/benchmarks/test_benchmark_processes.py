"""The processes of a benchmark: their use of the machine, and their end."""

import subprocess
import sys

import psutil
import pytest

from benchmarks.measuring.processes import MemoryWatch, cpu_seconds, ended_descendants, with_descendants

# A process whose child outlives it, as a SuperLink's do that is killed: the child prints its id.
PARENT = (
    "import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'],"
    " start_new_session=True); print(child.pid, flush=True); {}"
)


def start(then: str) -> tuple[subprocess.Popen[str], int]:
    command = [sys.executable, "-c", PARENT.format(then)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    return process, int(process.stdout.readline())


def interrupted(started: list[int]) -> None:
    with ended_descendants():
        process, child = start("child.wait()")
        started += [process.pid, child]
        raise KeyboardInterrupt


@pytest.mark.slow
def test_everything_that_was_started_within_is_ended_also_the_orphans() -> None:
    with ended_descendants():
        living, child = start("child.wait()")
        dead, orphan = start("sys.exit()")
        assert dead.wait() == 0
        assert psutil.pid_exists(orphan)
    assert not any(psutil.pid_exists(pid) for pid in (living.pid, child, orphan))


@pytest.mark.slow
def test_what_was_started_before_is_left_alone_when_an_interrupt_ends_the_rest() -> None:
    before = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        started: list[int] = []
        with pytest.raises(KeyboardInterrupt):
            interrupted(started)
        assert started
        assert not any(psutil.pid_exists(pid) for pid in started)
        assert before.poll() is None
    finally:
        before.kill()
        before.wait()


@pytest.mark.slow
def test_the_time_of_a_tree_includes_children_that_have_ended() -> None:
    busy = "import time\nwhile time.process_time() < 0.3: pass"
    script = (
        f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy!r}]);"
        " print('done', flush=True); sys.stdin.read()"
    )
    with ended_descendants():
        command = [sys.executable, "-c", script]
        process = psutil.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdout
        assert process.stdout.readline() == b"done\n"
        assert cpu_seconds([process]) >= 0.3


def test_a_process_that_has_ended_is_no_part_of_a_tree() -> None:
    process = psutil.Popen([sys.executable, "-c", ""])
    process.wait()
    assert with_descendants([process]) == []
    assert cpu_seconds([process]) == 0.0


def test_the_largest_memory_of_each_tree_is_kept() -> None:
    this = psutil.Process()
    with MemoryWatch({"this": lambda: [this], "nothing": list}, seconds=0.01) as memory:
        pass
    assert memory.peaks["this"] > 10
    assert memory.peaks["nothing"] == 0.0


def test_the_processor_time_of_the_samples_can_be_left_out() -> None:
    busy: list[int] = []

    def compute() -> list[psutil.Process]:
        busy.append(sum(range(1_000_000)))
        return []

    with MemoryWatch({"busy": compute}, seconds=60.0) as memory:
        pass
    assert busy
    assert memory.cpu_seconds > 0.0
