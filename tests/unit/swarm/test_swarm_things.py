"""The things of a swarm are created with what belongs to them, and exactly these are removed."""

from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from fedgrass.swarm.devices.device_crowd import tls_context
from fedgrass.swarm.swarm_errors import SwarmError, SwarmOptionError
from fedgrass.swarm.swarm_spec import Identity
from fedgrass.swarm.swarm_things import SwarmThings, provisioned_things

SAID: list[str] = []


class Registry:
    """AWS IoT: the things and certificates that exist, with a limit of things."""

    class exceptions:  # noqa: N801 - as boto3 names it
        ResourceNotFoundException = KeyError

    def __init__(self, most: int = 100) -> None:
        self.things: dict[str, str] = {"a-real-device": "its certificate"}
        self.certificates: dict[str, str] = {}
        self.groups: set[str] = set()
        self.policies: dict[str, str] = {}
        self._most = most

    def create_thing(self, *, thingName: str) -> None:  # noqa: N803 - AWS's spelling
        if len(self.things) > self._most:
            raise ClientError({"Error": {"Code": "LimitExceeded", "Message": "too many"}}, "CreateThing")
        assert thingName not in self.things
        self.things[thingName] = ""

    def register_certificate_without_ca(self, *, certificatePem: str, status: str) -> dict[str, str]:  # noqa: N803
        assert status == "ACTIVE"
        arn = f"arn:cert/{len(self.certificates)}"
        self.certificates[arn] = certificatePem
        return {"certificateArn": arn}

    def attach_policy(self, *, policyName: str, target: str) -> None:  # noqa: N803
        self.policies[target] = policyName

    def attach_thing_principal(self, *, thingName: str, principal: str) -> None:  # noqa: N803
        self.things[thingName] = principal

    def create_thing_group(self, *, thingGroupName: str) -> None:  # noqa: N803
        self.groups.add(thingGroupName)

    def add_thing_to_thing_group(self, *, thingName: str, thingGroupName: str) -> None:  # noqa: N803
        assert thingGroupName in self.groups
        assert thingName in self.things

    def detach_thing_principal(self, *, thingName: str, principal: str) -> None:  # noqa: N803
        assert self.things[thingName] in {principal, ""}
        self.things[thingName] = ""

    def update_certificate(self, *, certificateId: str, newStatus: str) -> None:  # noqa: N803
        assert f"arn:cert/{certificateId}" in self.certificates
        assert newStatus == "INACTIVE"

    def detach_policy(self, *, policyName: str, target: str) -> None:  # noqa: N803
        assert self.policies.pop(target) == policyName

    def delete_certificate(self, *, certificateId: str, forceDelete: bool) -> None:  # noqa: N803
        assert forceDelete
        del self.certificates[f"arn:cert/{certificateId}"]

    def delete_thing(self, *, thingName: str) -> None:  # noqa: N803
        assert not self.things.pop(thingName, "")  # AWS accepts a thing that does not exist

    def delete_thing_group(self, *, thingGroupName: str) -> None:  # noqa: N803
        self.groups.remove(thingGroupName)


def _things(registry: Registry, folder: Path) -> SwarmThings:
    clients: Any = lambda _: registry  # noqa: E731 - as boto3's clients
    return SwarmThings(clients, "swarm-1", "devices", folder, grouped=True)


def test_everything_that_was_created_is_removed_and_nothing_else(tmp_path: Path) -> None:
    registry = Registry()
    things = _things(registry, tmp_path)
    made = things.create(3, SAID.append)
    assert [one.thing for one in made] == ["swarm-1-00001", "swarm-1-00002", "swarm-1-00003"]
    assert [one.mark for one in made] == [0, 1, 2]
    assert len(registry.certificates) == 3
    assert set(registry.policies.values()) == {"devices"}
    assert registry.groups == {"swarm-1"}
    assert Path(made[0].private_key).stat().st_mode & 0o777 == 0o600
    tls_context(made[0], made[0].certificate)  # certificate and key belong together
    things.remove(SAID.append)
    assert registry.things == {"a-real-device": "its certificate"}
    assert not registry.certificates
    assert not registry.groups
    assert not registry.policies


def test_what_was_created_before_a_refusal_is_removed(tmp_path: Path) -> None:
    registry = Registry(most=3)
    things = _things(registry, tmp_path)
    with pytest.raises(SwarmError, match=r"the things of swarm-1 could not be created: .*too many"):
        things.create(10, SAID.append)
    things.remove(SAID.append)
    assert registry.things == {"a-real-device": "its certificate"}
    assert not registry.certificates
    assert not SAID


def test_things_of_fleet_provision_are_taken_in_their_order(tmp_path: Path) -> None:
    for name in ("press-2", "press-1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "certificate.pem").touch()
        (tmp_path / name / "private.key").touch()
    (tmp_path / "notes").mkdir()
    found = provisioned_things(tmp_path, 2)
    assert [(one.thing, one.mark) for one in found] == [("press-1", 0), ("press-2", 1)]
    assert found[0].certificate == str(tmp_path / "press-1" / "certificate.pem")
    with pytest.raises(SwarmOptionError, match=r"has 2 things with a certificate\.pem, --devices is 3"):
        provisioned_things(tmp_path, 3)
    with pytest.raises(SwarmOptionError, match=r"--things .*/nowhere cannot be read: No such file"):
        provisioned_things(tmp_path / "nowhere", 1)


def test_a_certificate_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    identity = Identity(thing="a", certificate=str(tmp_path / "a.pem"), private_key="", mark=0)
    with pytest.raises(SwarmOptionError, match=r"the certificate .*a\.pem of a with its key"):
        tls_context(identity, "")
