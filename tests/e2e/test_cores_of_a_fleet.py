"""``fedgrass core`` finds the cores of a running demo and controls them."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import package
from tests.e2e.processes import Command, command, wait_until

pytestmark = pytest.mark.timeout(300)

DEMO = ("demo", "--devices", "2", "--rounds", "1", "--task", "noise", "--keep")


@pytest.fixture(scope="module")
def runtime() -> Iterator[Path]:
    """A runtime folder that the demos share; its name is short enough for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="fg-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, runtime: Path) -> Iterator[Command]:
    """A demo for all tests: the last one stops one of its cores, then the demo ends and leaves nothing."""
    with command(tmp_path_factory.mktemp("demo"), *DEMO, runtime=runtime) as running:
        for step in ("have sent a heartbeat", "keep running until Ctrl-C"):
            running.wait_for(step)
        yield running
        running.interrupt()
        assert running.wait() == 130
        assert running.left_behind() == []


def core(runtime: Path, *arguments: str) -> tuple[int, str]:
    """Run a ``fedgrass core`` command; return its exit code and output."""
    ended = subprocess.run(
        [sys.executable, "-m", "fedgrass.console.main", "core", *arguments],
        env={**os.environ, "XDG_RUNTIME_DIR": str(runtime), "PYTHONPATH": str(package.ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in ended.stderr
    return ended.returncode, ended.stdout + ended.stderr


def log_of(demo: Command, thing: str) -> str:
    (log,) = demo.temporary.glob(f"*/cores/{thing}/greengrass/logs/com.fedgrass.Trainer.log")
    return log.read_text()


def test_two_fleets_with_things_of_the_same_names_are_told_apart(
    demo: Command, runtime: Path, tmp_path: Path
) -> None:
    with command(tmp_path / "second", *DEMO, runtime=runtime) as second:
        second.wait_for("keep running until Ctrl-C")
        lines = [line for line in core(runtime, "list")[1].splitlines() if line.startswith("device-")]
        assert [line.split()[0] for line in sorted(lines)] == [
            "device-1",
            "device-1:2",
            "device-2",
            "device-2:2",
        ]
        core(runtime, "inject", "broker-cut", "--thing", "device-1:2")
        listed = core(runtime, "list")[1]
        assert listed.count("fault broker-cut") == 1
        assert listed.index("device-1:2") < listed.index("fault broker-cut") < listed.index("device-2 ")
        second.interrupt()
        assert second.wait() == 130
    assert ":2" not in core(runtime, "list")[1]
    assert demo.said().count("SUCCEEDED") >= 1


def test_the_cores_of_a_demo_are_listed_disturbed_spoken_to_and_stopped(demo: Command, runtime: Path) -> None:
    _, listed = core(runtime, "list")
    assert "device-1  classic" in listed
    assert "device-2  classic" in listed
    assert listed.count("com.fedgrass.Trainer") == 2

    assert "fedgrass core inject broker-cut --seconds 30 --thing device-1" in demo.said()
    code, said = core(runtime, "inject", "slow-uplink", "--amount", "5000", "--thing", "device-1")
    assert (code, said) == (0, "slow-uplink injected\n")
    assert "fault slow-uplink 5000" in core(runtime, "list")[1]
    core(runtime, "inject", "slow-uplink", "--clear", "--thing", "device-1")
    assert "slow-uplink" not in core(runtime, "list")[1]

    core(runtime, "inject", "ipc-restart", "--thing", "device-1")
    wait_until(lambda: "exiting, to be started again" in log_of(demo, "device-1"), "the trainer to notice")

    announce = "fedgrass/demo/clients/device-2/announce"
    code, said = core(runtime, "publish", announce, "no JSON", "--thing", "device-2")
    assert code == 0, said
    wait_until(lambda: "dropped a message" in log_of(demo, "device-2"), "the message to come by the broker")

    assert core(runtime, "stop", "device-2") == (0, "device-2 has stopped\n")
    assert "device-2" not in core(runtime, "list")[1]
