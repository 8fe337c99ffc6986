"""Ray where it is not installed, and addresses where no Ray answers."""

import socket
import sys

import pytest

from fedgrass.federation.errors import SettingsError
from fedgrass.simulation.grids.executors import ray_executor
from fedgrass.simulation.grids.executors.ray_executor import RayExecutor


def test_without_ray_it_is_said_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SettingsError, match=r"--executor ray needs Ray, .*: pip install 'fedgrass\[ray\]'"):
        RayExecutor("", 1)


@pytest.mark.parametrize("prefix", ["", "ray://"])
def test_an_address_where_nothing_listens_is_named(prefix: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"{prefix}127.0.0.1:{server.getsockname()[1]}"
        ray_executor._check_reachable(address)
    with pytest.raises(SettingsError, match=f"Ray at {address} does not answer: Connection refused"):
        ray_executor._check_reachable(address)


@pytest.mark.parametrize("address", ["127.0.0.1:port", "127.0.0.1:99999999"])
def test_an_address_that_is_none_is_named(address: str) -> None:
    with pytest.raises(SettingsError, match=r"take HOST:PORT of the head node"):
        ray_executor._check_reachable(address)
