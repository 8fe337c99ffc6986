"""The arithmetic of the benchmarks of rounds, averages and starts, and what they do without a peer."""

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import averaging, round_overhead, start
from benchmarks.measuring.first_round import Parts
from benchmarks.measuring.round_figures import Figures, Measurement
from benchmarks.peers import peer_environments
from benchmarks.peers.peer_environments import PeerEnvironment
from fedgrass.federation.errors import FedgrassError

ROOT = Path(__file__).parents[3]


def figures(seconds: float, cpu: float) -> Figures:
    return Figures([seconds], Measurement(cpu, cpu / 2), 100.0, 30.0, 400.0)


def test_a_missing_peer_is_null() -> None:
    found = round_overhead.cell({"fedgrass": figures(1.0, 0.1)})
    assert found["fedgrass"]["s"] == 1.0
    assert found["flower"] is None
    assert found["flare"] is None
    assert "share_of_flowers_seconds" not in found


def test_fedgrass_is_measured_as_a_share_of_flower() -> None:
    found = round_overhead.cell({"fedgrass": figures(1.0, 0.1), "flower": figures(8.0, 2.0)})
    assert found["share_of_flowers_seconds"] == 0.125
    assert found["share_of_flowers_cpu"] == 0.05


def test_a_claim_that_the_figures_do_not_show_is_named() -> None:
    cells: dict[str, dict[str, Any]] = {
        "1": {"share_of_flowers_seconds": 0.1, "share_of_flowers_cpu": 0.2},
        "4": {"share_of_flowers_seconds": 0.11, "share_of_flowers_cpu": 0.21},
        "16": {},
    }
    assert round_overhead.broken_claims(cells) == [
        "4 devices: share_of_flowers_seconds 0.110, claimed at most 0.1",
        "4 devices: share_of_flowers_cpu 0.210, claimed at most 0.2",
    ]


def test_the_peers_that_are_installed_run_before_fedgrass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_environments, "flower", lambda: PeerEnvironment(Path("bin"), "1.42.0"))
    monkeypatch.setattr(peer_environments, "flare", lambda: None)
    assert list(round_overhead.systems(peers=True)) == ["flower", "fedgrass"]
    assert list(round_overhead.systems(peers=False)) == ["fedgrass"]


@pytest.mark.parametrize("system", ["fedgrass", "flower", "flare"])
@pytest.mark.parametrize("quick", [True, False])
def test_at_least_one_round_is_left_after_the_first(system: str, *, quick: bool) -> None:
    for devices in (1, 4, 16):
        for megabytes in (1.0, 20.0):
            assert round_overhead.rounds_of(system, devices, megabytes, quick=quick) >= 2


def test_linear_growth_has_the_exponent_1() -> None:
    assert averaging.growth([10, 50, 100], [0.1, 0.5, 1.0]) == 1.0
    assert averaging.growth([10, 100], [0.1, 10.0]) == 2.0
    assert averaging.growth([10], [0.1]) is None


def test_the_updates_of_the_averaging_are_what_flower_gets(tmp_path: Path) -> None:
    averaging.write_updates(tmp_path, 2, 1000)
    files = sorted(tmp_path.glob("updates__*"))
    assert len(files) == 2
    # Flower's script reads them without safetensors: the header is JSON, all values are float32.
    data = files[0].read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    assert len(np.frombuffer(data, np.float32, offset=begin)) == 1000


def test_each_part_has_its_own_seconds() -> None:
    times = iter([10.0, 11.0, 14.5])
    parts = Parts(lambda: next(times))
    parts.done("build_s")
    parts.done("cloud_s")
    assert parts.seconds == {"build_s": 1.0, "cloud_s": 3.5}


def test_the_total_leaves_out_what_was_there_before() -> None:
    assert start.with_total({"clone_s": None, "cloud_s": 2.5, "cores_s": 1.0})["total_s"] == 3.5


def test_a_part_that_fails_is_an_error_with_its_output(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('no disk'); raise SystemExit(3)"]
    with pytest.raises(FedgrassError, match=r"failed:\nno disk"):
        start.run_part(command, tmp_path)


def test_a_part_that_ends_well_has_its_seconds_and_output(tmp_path: Path) -> None:
    seconds, output = start.run_part([sys.executable, "-c", "print('done')"], tmp_path)
    assert seconds > 0
    assert output == "done\n"


def pins(file: str) -> dict[str, str]:
    return dict(re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)$", (ROOT / file).read_text(), re.MULTILINE))


def test_there_is_one_version_of_flower_and_of_torch() -> None:
    own, peer = pins("constraints.txt"), pins(".ci/constraints-flower.txt")
    assert peer["flwr"] == own["flwr"]
    assert peer["torch"] == own["torch"]
    assert pins(".ci/constraints-flare.txt")["nvflare"] == "2.9.0"
