"""How the peers are started and measured, without the peers."""

import json
import sys
from pathlib import Path

import psutil
import pytest

from benchmarks.peers import flare_engine, peer_processes
from benchmarks.peers.round_times import last_lines, wait_for_times
from fedgrass.federation.errors import FedgrassError


def test_a_job_of_flare_has_all_sites_and_the_training_of_the_flower_app(tmp_path: Path) -> None:
    job = flare_engine.write_job(tmp_path / "job", 3, 20.0, 5, tmp_path / "times.json")
    assert json.loads((job / "meta.json").read_text())["min_clients"] == 3
    server = json.loads((job / "app" / "config" / "config_fed_server.json").read_text())
    assert server["workflows"][0]["args"] == {
        "megabytes": 20.0,
        "times": str(tmp_path / "times.json"),
        "num_clients": 3,
        "num_rounds": 5,
        "persistor_id": "",
    }
    client = json.loads((job / "app" / "config" / "config_fed_client.json").read_text())
    assert client["executors"][0]["executor"]["path"] == "flare_overhead.AddConstant"
    flower = Path(flare_engine.__file__).parent / "flower_app" / "overhead" / "task.py"
    assert (job / "app" / "custom" / "overhead_task.py").read_text() == flower.read_text()
    assert (job / "app" / "custom" / "flare_overhead.py").exists()


def test_a_project_of_flare_has_its_port_and_a_site_per_device() -> None:
    participants = flare_engine.project(2, 4321)["participants"]
    assert isinstance(participants, list)
    assert participants[0]["fed_learn_port"] == 4321
    assert [one["name"] for one in participants if one["type"] == "client"] == ["site-1", "site-2"]


def test_times_are_returned_once_there_are_enough(tmp_path: Path) -> None:
    (tmp_path / "times.json").write_text("[1.0, 2.0, 3.0]")
    assert wait_for_times(tmp_path / "times.json", 2, 0.0, str, tmp_path) == [1.0, 2.0, 3.0]


def test_times_that_do_not_come_are_an_error_with_the_logs(tmp_path: Path) -> None:
    (tmp_path / "server.log").write_text("started\nout of memory\n")
    times = tmp_path / "times.json"
    with pytest.raises(FedgrassError, match=r"took more than 0 s; 0 rounds are done\nserver: started"):
        wait_for_times(times, 2, 0.0, str, tmp_path)
    times.write_text("[1.0, 2.0, 3.0]")
    with pytest.raises(FedgrassError, match="the server ended; 2 rounds are done"):
        wait_for_times(times, 5, 60.0, lambda: "the server ended", tmp_path)


def test_the_end_of_each_log_is_shown_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "b.log").write_text("".join(f"{number}\n" for number in range(100)))
    (tmp_path / "a.log").write_text("x\n")
    lines = last_lines(tmp_path).splitlines()
    assert lines[0] == "a: x"
    assert lines[-1] == "b: 99"
    assert len(lines) == 16


def test_free_ports_are_all_different() -> None:
    assert len(set(peer_processes.free_ports(8))) == 8


def test_a_process_that_ends_before_it_listens_is_an_error(tmp_path: Path) -> None:
    (port,) = peer_processes.free_ports(1)
    command = [sys.executable, "-c", "print('no licence')"]
    process = peer_processes.start(command, {}, tmp_path / "server.log")
    psutil.wait_procs([process], timeout=30)
    with pytest.raises(FedgrassError, match=rf"nothing listens on port {port}\nserver: no licence"):
        peer_processes.wait_for_port(port, process, 60.0, tmp_path)


def test_a_condition_that_does_not_come_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FedgrassError, match="no sites"):
        peer_processes.wait_until(lambda: False, lambda: False, 0.0, "no sites", tmp_path)
