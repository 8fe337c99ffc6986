"""A deployed stack as the cloud of a swarm: its addresses, its things, and what it lacks."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fedgrass.console import stack
from fedgrass.swarm import swarm_cloud
from fedgrass.swarm.swarm_cloud import deployed_swarm_cloud
from fedgrass.swarm.swarm_errors import SwarmOptionError
from tests.unit.swarm.test_swarm_things import Registry

OUTPUTS = {
    "Fleet": "presses",
    "DeviceRoleAlias": "fedgrass-presses",
    "DevicePolicyName": "devices",
}
SAID: list[str] = []


class Endpoints(Registry):
    """AWS IoT with its endpoints."""

    meta = SimpleNamespace(region_name="eu-central-1")

    def describe_endpoint(self, *, endpointType: str) -> dict[str, str]:  # noqa: N803 - AWS's spelling
        return {"endpointAddress": f"{endpointType.removeprefix('iot:').lower()}.amazonaws.com"}


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    registry = Endpoints()
    monkeypatch.setattr(stack, "client", lambda _: registry)
    monkeypatch.setattr(stack, "outputs", lambda _: OUTPUTS)
    monkeypatch.setattr(swarm_cloud, "Operator", lambda *_: None)
    return registry


def _open(folder: Path, things: Path | None = None) -> Any:
    return deployed_swarm_cloud("press", folder, "swarm-1", 2, things=things, report=SAID.append)


def test_things_are_created_in_a_group_and_removed_at_the_end(registry: Registry, tmp_path: Path) -> None:
    with _open(tmp_path) as cloud:
        assert [one.thing for one in cloud.things] == ["swarm-1-00001", "swarm-1-00002"]
        assert registry.groups == {"swarm-1"}
        address = cloud.address
        assert (address.endpoint, address.port, address.s3_url) == ("data-ats.amazonaws.com", 8883, "")
        assert address.credentials_endpoint == "credentialprovider.amazonaws.com"
        assert (address.role_alias, address.region) == ("fedgrass-presses", "eu-central-1")
    assert set(registry.things) == {"a-real-device"}
    assert not registry.groups


def test_things_are_removed_after_an_interruption(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), _open(tmp_path):
        raise KeyboardInterrupt
    assert set(registry.things) == {"a-real-device"}


def test_provisioned_things_are_used_and_kept(registry: Registry, tmp_path: Path) -> None:
    for name in ("press-1", "press-2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "certificate.pem").touch()
    with _open(tmp_path / "work", tmp_path) as cloud:
        assert [one.thing for one in cloud.things] == ["press-1", "press-2"]
        assert not cloud.created
    assert not registry.certificates
    assert set(registry.things) == {"a-real-device"}


def test_a_stack_without_a_role_alias_is_refused(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(stack, "outputs", lambda _: {**OUTPUTS, "DeviceRoleAlias": ""})
    with pytest.raises(SwarmOptionError, match="the stack press has no role alias"), _open(tmp_path):
        pytest.fail("it was opened")
    assert set(registry.things) == {"a-real-device"}
