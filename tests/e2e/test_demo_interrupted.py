"""``fedgrass demo`` interrupted at any time, killed, kept, and next to one that was killed or that lives."""

import signal
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.e2e.processes import Command, command

pytestmark = pytest.mark.timeout(300)

SMALL = ("demo", "--devices", "2", "--rounds", "2", "--task", "noise")
ENDLESS = (*SMALL, "--rounds", "1000")
WITHOUT_GREENGRASS = ("--mqtt-devices", "2")


# At the last moment, "round 1.1 opened", SIGTERM comes to the demo next to a living one.
@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("", signal.SIGINT),
        ("", signal.SIGTERM),
        ("the cloud is running", signal.SIGTERM),
        ("have sent a heartbeat", signal.SIGINT),
        ("round 1.1 opened", signal.SIGINT),
    ],
)
def test_stopping_the_demo_at_any_moment_leaves_nothing(
    tmp_path: Path, moment: str, number: signal.Signals
) -> None:
    with command(tmp_path, *ENDLESS) as demo:
        demo.wait_for(moment)
        demo.interrupt(number)
        code = demo.wait()
        if moment:  # before that, Python itself handles the signal
            assert code == 130, demo.said()
            assert "Traceback" not in demo.said()
        assert code != 0
        assert demo.left_behind() == []


@dataclass(frozen=True)
class Ended:
    """A demo that a signal has ended."""

    code: int
    said: str
    processes: int
    left: list[str]  # processes and files

    @property
    def alive(self) -> list[str]:
        return [process for process in self.left if "psutil.Process" in process]


@dataclass(frozen=True)
class Neighbours:
    """Three demos whose temporary files are in one folder; each began after the one before it."""

    killed: Ended
    files_of_killed: list[str]
    kept: Ended
    kept_said: str  # before it was interrupted
    files_of_kept: set[Path]
    addresses_of_kept: list[str]  # of its listening sockets
    stopped: Ended  # while the kept one lived
    files_beside_stopped: set[Path]


@pytest.fixture(scope="module")
def neighbours(tmp_path_factory: pytest.TempPathFactory) -> Neighbours:
    """Kill a demo in its first round; keep a second one, and meanwhile stop a third in its first round."""
    folder = tmp_path_factory.mktemp("neighbours")
    with command(folder, *ENDLESS, *WITHOUT_GREENGRASS) as demo:
        demo.wait_for("round 1.1 opened")
        killed = _ended(demo, signal.SIGKILL)
        left = sorted(str(path) for path in demo.temporary.iterdir())
    with command(folder, *SMALL, "--keep") as living:
        living.wait_for("round 1.1 opened")
        addresses = _listening(living)
        living.wait_for("mosquitto_sub")
        living.wait_for("keep running until Ctrl-C")
        said, files = living.said(), set(living.temporary.iterdir())
        same = {"TMPDIR": str(living.temporary)}
        with command(folder / "third", *ENDLESS, *WITHOUT_GREENGRASS, environment=same) as third:
            third.wait_for("round 1.1 opened")
            beside = set(living.temporary.iterdir())
            stopped = _ended(third, signal.SIGTERM)
        kept = _ended(living, signal.SIGINT)
    return Neighbours(killed, left, kept, said, files, addresses, stopped, beside)


def _ended(demo: Command, number: signal.Signals) -> Ended:
    demo.interrupt(number)
    code = demo.wait()
    return Ended(code, demo.said(), len([one for one in demo.seen if one.pid]), demo.left_behind())


def _listening(demo: Command) -> list[str]:
    processes = [process for process in demo.look() if process.is_running()]
    return [
        connection.laddr.ip
        for process in [*processes, psutil.Process(demo._process.pid)]
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]


def test_killing_the_demo_leaves_no_process(neighbours: Neighbours) -> None:
    assert neighbours.killed.alive == []
    assert neighbours.killed.processes >= 4 + 1, "of two cores and of two devices without Greengrass"


def test_stopping_the_demo_leaves_no_device_without_greengrass(neighbours: Neighbours) -> None:
    assert neighbours.stopped.code == 130, neighbours.stopped.said
    assert "Traceback" not in neighbours.stopped.said
    assert neighbours.stopped.left == []
    assert neighbours.stopped.processes >= 4 + 1


def test_what_a_killed_demo_left_is_removed_by_the_next_one_and_what_a_living_one_has_is_not(
    neighbours: Neighbours,
) -> None:
    left = neighbours.files_of_killed
    assert left
    assert f"removed what a killed process had left: {', '.join(left)}" in neighbours.kept_said
    assert "removed" not in neighbours.stopped.said
    assert neighbours.files_of_kept
    assert neighbours.files_of_kept < neighbours.files_beside_stopped


def test_every_listening_socket_of_the_demo_is_on_loopback(neighbours: Neighbours) -> None:
    assert len(neighbours.addresses_of_kept) >= 2 + 2 * 2  # two of the cloud, and two of each core
    assert set(neighbours.addresses_of_kept) == {"127.0.0.1"}


def test_a_demo_that_is_kept_prints_how_to_watch_it(neighbours: Neighbours) -> None:
    assert "SUCCEEDED" in neighbours.kept_said
    assert neighbours.kept.code == 130
    lines = neighbours.kept.said.splitlines()
    assert lines[-2:] == ["stopping the devices and the cloud ...", "stopped"]
    assert neighbours.kept.left == [], "of the kept demo, or of the one that was stopped beside it"
