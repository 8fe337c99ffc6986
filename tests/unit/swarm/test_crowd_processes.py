"""The processes of a swarm: their failures are errors, their replies are merged, and none survives."""

import socket
from pathlib import Path

import psutil
import pytest

from fedgrass.swarm.crowd_processes import CrowdProcesses, _merged
from fedgrass.swarm.swarm_errors import SwarmError
from fedgrass.swarm.swarm_spec import CloudAddress, Habits, Identity, RoundReplies
from fedgrass.swarm.swarm_things import _self_signed

SAID: list[str] = []


def _crowd(folder: Path, certificate: bool = True) -> CrowdProcesses:  # noqa: FBT001, FBT002 - of a test
    """Return the processes of one device, whose broker is not there."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    text, key = _self_signed("a")
    files = folder / "a.pem", folder / "a.key"
    if certificate:
        files[0].write_text(text, encoding="ascii")
        files[1].write_bytes(key)
    address = CloudAddress(
        fleet="press",
        endpoint="localhost",
        port=port,
        root_ca="",
        credentials_endpoint=f"localhost:{port}",
        role_alias="alias",
        region="eu-central-1",
        s3_url=f"http://localhost:{port}",
    )
    things = [Identity(thing="a", certificate=str(files[0]), private_key=str(files[1]), mark=0)]
    return CrowdProcesses("swarm-1", things, address, Habits(), ramp=10.0, count=4)


@pytest.mark.slow
def test_a_broker_that_is_not_there_fails_the_swarm_with_its_name(tmp_path: Path) -> None:
    with _crowd(tmp_path) as crowd:
        assert len(crowd.processes) == 1  # not more than there are devices
        with pytest.raises(SwarmError, match=r"a at localhost:\d+: the broker refuses the session"):
            crowd.wait_until_ready(60, SAID.append)


@pytest.mark.slow
def test_a_certificate_that_cannot_be_read_fails_the_swarm(tmp_path: Path) -> None:
    with (
        pytest.raises(SwarmError, match=r"the certificate .*a\.pem of a .* cannot be used: .*provision it"),
        _crowd(tmp_path, certificate=False) as crowd,
    ):
        crowd.wait_until_ready(60, SAID.append)


@pytest.mark.slow
def test_a_process_that_is_killed_is_noticed_and_the_others_end(tmp_path: Path) -> None:
    with _crowd(tmp_path) as crowd:
        (child,) = (one for one in psutil.Process().children() if "swarm_process" in " ".join(one.cmdline()))
        child.kill()
        with pytest.raises(SwarmError, match="a process of the swarm ended with code -9: no reason given"):
            crowd.wait_until_ready(60, SAID.append)
    assert not child.is_running()
    assert crowd.stop() == {}


def test_replies_of_processes_are_merged() -> None:
    one = RoundReplies(round_id="r/1/1", devices=["a"], sent=2, counted=1)
    other = RoundReplies(round_id="r/1/1", devices=["b"], sent=1, refused=1)
    assert _merged(None, one) == one
    assert _merged(one, other) == RoundReplies(
        round_id="r/1/1", devices=["a", "b"], sent=3, counted=1, refused=1
    )
