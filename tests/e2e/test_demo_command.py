"""``fedgrass demo`` as an operator runs it: concurrently, interrupted at any time, with invalid options."""

import json
import signal
import socket
from pathlib import Path

import psutil
import pytest

from fedgrass.federation.weights import decode
from tests.e2e.processes import command

SMALL = ("demo", "--devices", "2", "--rounds", "2", "--task", "noise")


def test_two_demos_side_by_side_train_and_leave_nothing_but_their_runs(tmp_path: Path) -> None:
    with (
        command(tmp_path / "a", *SMALL) as first,
        command(tmp_path / "b", *SMALL, "--profile", "lite", "--setting", "evaluate_last=false") as second,
    ):
        for demo in (first, second):
            demo.wait_for("opened")
            demo.look()
        assert (first.wait(), second.wait()) == (0, 0), first.said() + second.said()
        assert "model 2, evaluated by 2 devices on their own data: loss" in first.said()
        assert first.left_behind() == []
        assert second.left_behind() == []
        assert first.seen, "the demo started no process: it cannot have run the fleet"
    for folder in ("a", "b"):
        (run,) = (tmp_path / folder / "runs").iterdir()
        assert sorted(path.name for path in run.iterdir()) == [
            "accuracy.png",
            "history.json",
            "model.safetensors",
        ]
        assert set(decode((run / "model.safetensors").read_bytes())) == {"body", "bias"}
        history = json.loads((run / "history.json").read_text())
        works = [(line["work"], line["base"], line["replied"]) for line in history["rounds"]]
        # The last model is evaluated too, because no training round measures it.
        last = [("evaluate", 2, 2)] if folder == "a" else []
        assert works == [("train", 0, 2), ("train", 1, 2), *last]
        assert history["rounds"][-1]["metrics"]["loss"] > 0
        assert history["state"] == "SUCCEEDED"


def test_devices_without_greengrass_train_with_the_cores_and_leave_nothing(tmp_path: Path) -> None:
    with command(tmp_path, *SMALL, "--mqtt-devices", "2") as demo:
        demo.wait_for("opened: 4 devices asked")
        demo.look()
        assert demo.wait() == 0, demo.said()
        assert "2 Greengrass cores (classic) run" in demo.said()
        assert "2 devices without Greengrass run it with plain MQTT" in demo.said()
        assert demo.left_behind() == []
    (run,) = (tmp_path / "runs").iterdir()
    history = json.loads((run / "history.json").read_text())
    assert [line["replied"] for line in history["rounds"]] == [4, 4, 4]


OWN_TASK = """
from pathlib import Path

from components.trainer.tasks.noise import Noise

HERE = Path(__file__).parent


class Cracks(Noise):
    def fit(self, *given):
        assert HERE.parent.name == "releases", f"the code came from {HERE}"
        assert (HERE / "labels.txt").read_text() == "crack"
        return super().fit(*given)
"""


@pytest.mark.parametrize("profile", ["classic", "lite"])
def test_a_users_task_reaches_all_devices_as_a_component(tmp_path: Path, profile: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "cracks.py").write_text(OWN_TASK)
    (source / "labels.txt").write_text("crack")
    words = ("demo", "--devices", "1", "--mqtt-devices", "1", "--rounds", "1", "--profile", profile)
    own = ("--task", "cracks=cracks:Cracks", "--task-path", str(source), "--task-include", "labels.txt")
    with command(tmp_path, *words, *own) as demo:
        assert demo.wait() == 0, demo.said()
    (run,) = (tmp_path / "runs").iterdir()
    history = json.loads((run / "history.json").read_text())
    assert [line["replied"] for line in history["rounds"]] == [2, 2]


def test_the_developers_proxy_and_locale_reach_no_process_of_the_demo(tmp_path: Path) -> None:
    nowhere = dict.fromkeys(
        ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"),
        "http://127.0.0.1:9",
    )
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    named = {"no_proxy": "intranet.example"}
    with command(
        tmp_path, *SMALL, "--mqtt-devices", "1", environment={**nowhere, **ascii_only, **named}
    ) as demo:
        assert demo.wait() == 0, demo.said()
        assert "run SUCCEEDED" in demo.said()
        assert "proxy" not in demo.said()
        assert "codec" not in demo.said()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_demo_that_is_ended_leaves_no_device_without_greengrass(
    tmp_path: Path, number: signal.Signals
) -> None:
    with command(tmp_path, *SMALL, "--rounds", "1000", "--mqtt-devices", "2") as demo:
        demo.wait_for("round 1.1 opened")
        demo.interrupt(number)
        assert [process for process in demo.left_behind() if "psutil.Process" in process] == []
        assert len([process for process in demo.seen if process.pid]) >= 4 + 1


@pytest.mark.parametrize("moment", ["", "the cloud is running", "have sent a heartbeat", "round 1.1 opened"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopping_the_demo_at_any_moment_leaves_nothing(
    tmp_path: Path, moment: str, number: signal.Signals
) -> None:
    with command(tmp_path, *SMALL, "--rounds", "1000") as demo:
        demo.wait_for(moment)
        demo.interrupt(number)
        code = demo.wait()
        if moment:  # before that, Python itself handles the signal
            assert code == 130, demo.said()
            assert "Traceback" not in demo.said()
        assert code != 0
        assert demo.left_behind() == []


def test_killing_the_demo_leaves_no_process(tmp_path: Path) -> None:
    with command(tmp_path, *SMALL, "--rounds", "1000") as demo:
        demo.wait_for("round 1.1 opened")
        demo.interrupt(signal.SIGKILL)
        assert [process for process in demo.left_behind() if "psutil.Process" in process] == []


def test_what_a_killed_demo_left_is_removed_by_the_next_one_and_what_a_living_one_has_is_not(
    tmp_path: Path,
) -> None:
    with command(tmp_path, *SMALL, "--rounds", "1000") as killed:
        killed.wait_for("round 1.1 opened")
        killed.interrupt(signal.SIGKILL)
        killed.left_behind()
        left = [str(path) for path in killed.temporary.iterdir()]
        assert left
    with command(tmp_path, *SMALL, "--rounds", "1000") as second:
        second.wait_for("round 1.1 opened")
        assert f"removed what a killed process had left: {', '.join(sorted(left))}" in second.said()
        with command(tmp_path, *SMALL) as third:
            assert third.wait() == 0, third.said()
            assert "removed" not in third.said()
        second.interrupt()
        assert second.wait() == 130, second.said()
        assert second.left_behind() == []


def test_every_listening_socket_of_the_demo_is_on_loopback(tmp_path: Path) -> None:
    with command(tmp_path, *SMALL, "--rounds", "1000") as demo:
        demo.wait_for("round 1.1 opened")
        processes = [process for process in demo.look() if process.is_running()]
        listening = [
            connection.laddr.ip
            for process in [*processes, psutil.Process(demo._process.pid)]
            for connection in process.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        ]
        assert len(listening) >= 2 + 2 * 2  # two of the cloud, and two of each core
        assert set(listening) == {"127.0.0.1"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--task", "nonsense"), ["'nonsense'", "digits"]),
        (("--devices", "0"), ["--devices", "'0'", "1 to 64"]),
        (("--devices", "1000"), ["--devices", "'1000'", "1 to 64"]),
        (("--mqtt-devices", "-1"), ["--mqtt-devices", "'-1'", "0 to 64"]),
        (("--mqtt-devices", "63"), ["69 devices", "1 to 64"]),
        (("--rounds", "0"), ["rounds", "1"]),
        (("--profile", "heavy"), ["heavy", "classic", "lite"]),
    ],
)
def test_a_mistake_is_reported_in_a_line_with_the_way_out(
    tmp_path: Path, arguments: tuple[str, ...], words: list[str]
) -> None:
    with command(tmp_path, "demo", *arguments) as demo:
        assert demo.wait() == 2
        assert "Traceback" not in demo.said()
        for word in words:
            assert word in demo.said()


@pytest.mark.parametrize("option", ["--gateway-port", "--mqtt-port"])
def test_a_busy_port_is_named(tmp_path: Path, option: str) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = str(busy.getsockname()[1])
        with command(tmp_path, *SMALL, option, port) as demo:
            assert demo.wait() == 2
            assert port in demo.said()
            assert "Traceback" not in demo.said()
            assert demo.left_behind() == []


def test_a_demo_that_is_kept_prints_how_to_watch_it(tmp_path: Path) -> None:
    with command(tmp_path, *SMALL, "--keep") as demo:
        demo.wait_for("mosquitto_sub")
        demo.wait_for("keep running until Ctrl-C")
        assert "SUCCEEDED" in demo.said()
        demo.interrupt()
        assert demo.wait() == 130
        assert demo.said().splitlines()[-2:] == ["stopping the devices and the cloud ...", "stopped"]
        assert demo.left_behind() == []
