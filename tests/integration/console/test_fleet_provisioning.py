"""``fedgrass fleet``: core devices in the embedded cloud's AWS IoT, provisioned, continued, removed.

The embedded cloud has neither role aliases nor GreengrassV2: their few calls are faked here.
"""

import hashlib
import json
import stat
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from botocore.exceptions import ClientError
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from fedgrass.console import stack
from fedgrass.console.commands import stack_commands
from fedgrass.console.greengrass_cloud import Account, GreengrassCloud
from fedgrass.console.main import parse
from fedgrass.console.provisioning import thing_registry
from fedgrass.console.provisioning.core_installation import core_policy, policy_name
from fedgrass.console.provisioning.fleet_provisioning import Devices, FleetProvisioning
from fedgrass.console.provisioning.thing_registry import ThingRegistry
from fedgrass.federation.errors import SettingsError
from fedgrass.local.aws.embedded_cloud import EmbeddedCloud

ROLE = "arn:aws:iam::000000000000:role/device"


def not_found() -> ClientError:
    return ClientError({"Error": {"Code": "ResourceNotFoundException", "Message": "none"}}, "Describe")


class IotWithRoleAliases:
    """IoT of the embedded cloud with faked role aliases; can be set to fail once."""

    def __init__(self, iot: Any) -> None:
        self._iot = iot
        self.aliases: dict[str, str] = {}
        self.fails_at = ""

    def __getattr__(self, operation: str) -> Any:
        if operation == self.fails_at:
            self.fails_at = ""
            raise ConnectionError(operation)
        return getattr(self._iot, operation)

    def describe_role_alias(self, roleAlias: str) -> Mapping[str, Any]:  # noqa: N803 - the names of boto3
        if roleAlias not in self.aliases:
            raise not_found()
        return {"roleAliasDescription": {"roleAlias": roleAlias, "roleArn": self.aliases[roleAlias]}}

    def create_role_alias(self, roleAlias: str, roleArn: str, **_: Any) -> None:  # noqa: N803 - the names of boto3
        self.aliases[roleAlias] = roleArn


class Greengrass:
    """The calls of GreengrassV2 that provisioning uses."""

    def __init__(self, region: str) -> None:
        self.meta = type("Meta", (), {"region_name": region})
        self.removed: list[str] = []

    def delete_core_device(self, coreDeviceThingName: str) -> None:  # noqa: N803 - the names of boto3
        self.removed.append(coreDeviceThingName)
        raise not_found()

    def get_paginator(self, _operation: str) -> "Greengrass":
        return self

    def paginate(self, arn: str) -> list[Mapping[str, Any]]:
        assert arn.endswith(":aws:components:aws.greengrass.Nucleus")
        return [{"componentVersions": [{"componentVersion": "2.15.0"}, {"componentVersion": "2.14.0"}]}]


class Aws:
    """The clients of the commands, and the cloud as they see it."""

    def __init__(self, cloud: EmbeddedCloud, names: str) -> None:
        self.cloud = cloud
        self.iot = IotWithRoleAliases(cloud.client("iot"))
        self.greengrass = Greengrass(cloud.region)
        self.names = names
        self.stack = {
            "Fleet": f"f{names}",
            "DevicePolicyName": f"device-{names}",
            "DeviceRoleArn": ROLE,
            "BucketName": "bucket",
        }
        self.group = f"group-{names}"

    def client(self, service: str) -> Any:
        own = {"iot": self.iot, "greengrassv2": self.greengrass}
        return own.get(service) or self.cloud.client(service)

    def thing(self, name: str) -> str:
        return f"{name}-{self.names}"

    def provisioning(self) -> FleetProvisioning:
        account = Account(self.client)
        registry, cloud = ThingRegistry(self.client, account), GreengrassCloud(self.client, account)
        return FleetProvisioning(registry, cloud, account, self.stack)

    def provision(self, folder: Path, *names: str, **more: Any) -> list[str]:
        things = [self.thing(name) for name in names]
        devices = Devices(things=things, group=self.group, folder=folder, **more)
        return list(self.provisioning().provision(devices))

    def inventory(self) -> dict[str, list[str]]:
        """All resources of AWS IoT that a test could leave behind."""
        iot = self.cloud.client("iot")
        mine = self.names
        return {
            "things": [t["thingName"] for t in iot.list_things()["things"] if mine in t["thingName"]],
            "policies": [p["policyName"] for p in iot.list_policies()["policies"] if mine in p["policyName"]],
            "certificates": [c["certificateId"] for c in iot.list_certificates()["certificates"]],
        }


@pytest.fixture
def aws(embedded_cloud: EmbeddedCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    monkeypatch.setattr(thing_registry, "PATIENCE_SECONDS", 5.0)
    monkeypatch.setattr(thing_registry, "PAUSE_SECONDS", 0.05)
    made = Aws(embedded_cloud, hashlib.sha256(str(tmp_path).encode()).hexdigest()[:10])
    document = json.dumps({"Version": "2012-10-17", "Statement": []})
    iot = embedded_cloud.client("iot")
    iot.create_policy(policyName=made.stack["DevicePolicyName"], policyDocument=document)
    yield made
    for thing in made.inventory()["things"]:
        list(made.provisioning().remove([thing], None))
    iot.delete_policy(policyName=made.stack["DevicePolicyName"])


def test_a_device_gets_all_that_it_needs(aws: Aws, tmp_path: Path) -> None:
    lines = aws.provision(tmp_path, "press-1", "press-2")
    thing, folder = aws.thing("press-1"), tmp_path / aws.thing("press-1")
    assert lines[:2] == [
        f"created the role alias fedgrass-f{aws.names}",
        f"created the thing group {aws.group}",
    ]
    assert [line.partition(" ")[0] for line in lines[2:]] == [thing, aws.thing("press-2")]

    iot = aws.cloud.client("iot")
    (arn,) = iot.list_thing_principals(thingName=thing)["principals"]
    described = iot.describe_certificate(certificateId=arn.rpartition("/")[2])["certificateDescription"]
    assert described["status"] == "ACTIVE"
    assert described["certificatePem"] == (folder / "certificate.pem").read_text()
    attached = {policy["policyName"] for policy in iot.list_attached_policies(target=arn)["policies"]}
    assert attached == {f"device-{aws.names}", policy_name(aws.stack["Fleet"], thing)}
    members = iot.list_things_in_thing_group(thingGroupName=aws.group)["things"]
    assert set(members) == {thing, aws.thing("press-2")}
    assert aws.iot.aliases == {f"fedgrass-f{aws.names}": ROLE}


def test_the_certificate_is_of_the_key_that_never_left_the_folder(aws: Aws, tmp_path: Path) -> None:
    aws.provision(tmp_path, "press-1")
    folder = tmp_path / aws.thing("press-1")
    key = serialization.load_pem_private_key((folder / "private.key").read_bytes(), None)
    certificate = x509.load_pem_x509_certificate((folder / "certificate.pem").read_bytes())
    kind = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert key.public_key().public_bytes(*kind) == certificate.public_key().public_bytes(*kind)


def test_only_the_owner_can_read_the_files(aws: Aws, tmp_path: Path) -> None:
    aws.provision(tmp_path, "press-1")
    folder = tmp_path / aws.thing("press-1")
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("nucleus", "component", "key"),
    [
        ("classic", "aws.greengrass.Nucleus", "/greengrass/v2/private.key"),
        ("lite", "aws.greengrass.NucleusLite", "/var/lib/greengrass/credentials/private.key"),
    ],
)
def test_the_nucleus_finds_its_configuration(
    aws: Aws, tmp_path: Path, nucleus: str, component: str, key: str
) -> None:
    aws.provision(tmp_path, "press-1", nucleus=nucleus)
    folder = tmp_path / aws.thing("press-1")
    configuration = yaml.safe_load((folder / "config.yaml").read_text())
    assert configuration["system"]["thingName"] == aws.thing("press-1")
    assert configuration["system"]["privateKeyPath"] == key
    (own,) = configuration["services"].items()
    assert own[0] == component
    assert own[1].get("version", "") == ("2.15.0" if nucleus == "classic" else "")
    values = own[1]["configuration"]
    assert values["iotRoleAlias"] == f"fedgrass-f{aws.names}"
    assert "-ats.iot." in values["iotDataEndpoint"]
    assert ".credentials.iot." in values["iotCredEndpoint"]
    checked = subprocess.run(
        ["sh", "-n", folder / "install.sh"], check=False, capture_output=True, timeout=30
    )
    assert (checked.returncode, checked.stderr) == (0, b"")


def test_a_second_run_changes_nothing(aws: Aws, tmp_path: Path) -> None:
    aws.provision(tmp_path, "press-1")
    before = aws.inventory()
    files = {file.name: file.read_bytes() for file in (tmp_path / aws.thing("press-1")).iterdir()}
    (line,) = aws.provision(tmp_path, "press-1")
    assert "is ready" in line
    assert aws.inventory() == before
    assert {f.name: f.read_bytes() for f in (tmp_path / aws.thing("press-1")).iterdir()} == files


@pytest.mark.parametrize(
    "operation",
    [
        "create_certificate_from_csr",
        "create_policy",
        "create_thing",
        "add_thing_to_thing_group",
        "attach_policy",
        "attach_thing_principal",
        "update_certificate",
    ],
)
def test_a_run_that_was_cut_short_is_continued(aws: Aws, tmp_path: Path, operation: str) -> None:
    certificates = len(aws.inventory()["certificates"])
    aws.iot.fails_at = operation
    with pytest.raises(ConnectionError):
        aws.provision(tmp_path, "press-1", "press-2")
    # An incomplete device cannot connect.
    iot = aws.cloud.client("iot")
    for thing in aws.inventory()["things"]:
        for arn in iot.list_thing_principals(thingName=thing)["principals"]:
            described = iot.describe_certificate(certificateId=arn.rpartition("/")[2])
            assert described["certificateDescription"]["status"] == "INACTIVE"

    aws.provision(tmp_path, "press-1", "press-2")
    left = aws.inventory()
    assert sorted(left["things"]) == [aws.thing("press-1"), aws.thing("press-2")]
    assert len(left["certificates"]) == certificates + 2


def test_a_run_that_was_cut_short_can_be_undone(aws: Aws, tmp_path: Path) -> None:
    before = aws.inventory()
    aws.iot.fails_at = "attach_thing_principal"
    with pytest.raises(ConnectionError):
        aws.provision(tmp_path, "press-1")
    assert aws.inventory() != before
    (line,) = aws.provisioning().remove([aws.thing("press-1")], tmp_path)
    assert line.startswith("removed ")
    assert aws.inventory() == before
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_of_what_is_removed(aws: Aws, tmp_path: Path) -> None:
    before = aws.inventory()
    aws.provision(tmp_path, "press-1", "press-2")
    things = [aws.thing("press-1"), aws.thing("press-2")]
    assert list(aws.provisioning().remove(things, tmp_path)) == [f"removed {thing}" for thing in things]
    assert aws.inventory() == before
    assert aws.greengrass.removed == things
    assert list(tmp_path.iterdir()) == []
    assert list(aws.provisioning().remove(things, tmp_path)) == [f"thing {t} does not exist" for t in things]


def test_a_lost_certificate_file_is_written_again(aws: Aws, tmp_path: Path) -> None:
    aws.provision(tmp_path, "press-1")
    file = tmp_path / aws.thing("press-1") / "certificate.pem"
    text = file.read_text()
    file.unlink()
    before = aws.inventory()
    aws.provision(tmp_path, "press-1")
    assert file.read_text() == text
    assert aws.inventory() == before


def test_a_certificate_that_was_revoked_is_replaced(aws: Aws, tmp_path: Path) -> None:
    aws.provision(tmp_path, "press-1")
    iot = aws.cloud.client("iot")
    (old,) = iot.list_thing_principals(thingName=aws.thing("press-1"))["principals"]
    iot.update_certificate(certificateId=old.rpartition("/")[2], newStatus="REVOKED")
    aws.provision(tmp_path, "press-1")
    (new,) = iot.list_thing_principals(thingName=aws.thing("press-1"))["principals"]
    assert new != old


def test_a_thing_whose_key_lies_elsewhere_is_refused_before_anything_is_made(
    aws: Aws, tmp_path: Path
) -> None:
    aws.provision(tmp_path / "here", "press-1")
    before = aws.inventory()
    with pytest.raises(SettingsError, match=r"has a certificate whose key is not in .*fleet remove --things"):
        aws.provision(tmp_path / "there", "press-2", "press-1")
    assert aws.inventory() == before


def test_a_role_alias_for_another_role_is_refused(aws: Aws, tmp_path: Path) -> None:
    aws.iot.aliases["shared"] = "arn:aws:iam::000000000000:role/another"
    with pytest.raises(SettingsError, match=r"'shared' is for .*another.*--role-alias"):
        aws.provision(tmp_path, "press-1", role_alias="shared")
    assert aws.inventory()["things"] == []


def test_a_changed_policy_is_brought_up_to_date(aws: Aws, tmp_path: Path) -> None:
    aws.provision(tmp_path, "press-1")
    aws.provision(tmp_path, "press-1", role_alias="another")
    found = aws.cloud.client("iot").get_policy(
        policyName=policy_name(aws.stack["Fleet"], aws.thing("press-1"))
    )
    assert "rolealias/another" in found["policyDocument"]
    list(aws.provisioning().remove([aws.thing("press-1")], None))
    assert len(aws.inventory()["policies"]) == 1


@pytest.mark.parametrize(
    ("things", "words"), [("a b", "cannot name a thing"), ("x" * 129, "cannot name a thing")]
)
def test_a_name_that_cannot_be_one_is_refused_first(
    aws: Aws, tmp_path: Path, things: str, words: str
) -> None:
    before = aws.inventory()
    devices = Devices(things=[things], group=aws.group, folder=tmp_path)
    with pytest.raises(SettingsError, match=words):
        list(aws.provisioning().provision(devices))
    assert aws.inventory() == before


def test_policies_of_different_things_have_different_names() -> None:
    things = ["a:b", "a_b", "a-b", "x" * 128, "x" * 127 + "y"]
    names = {policy_name("f" * 32, thing) for thing in things}
    assert len(names) == len(things)
    assert max(len(name) for name in names) <= 128


def test_a_policy_that_aws_would_not_take_is_refused_here() -> None:
    with pytest.raises(SettingsError, match="is too long: its policy exceeds the 2,048 characters"):
        core_policy("x" * 128, "f" * 41, partition="aws-us-gov", region="us-gov-west-1", account="1" * 12)


def test_a_core_may_use_its_own_name_only() -> None:
    document = core_policy("press-1", "alias", partition="aws", region="eu-west-1", account="123456789012")
    for statement in document["Statement"]:
        assert not [action for action in statement["Action"] if "*" in action]
        for resource in statement["Resource"]:
            assert resource == "*" or "/press-1" in resource or resource.endswith("rolealias/alias")
            assert "press-1*" not in resource  # press-10 is another device
    anything = [s["Action"] for s in document["Statement"] if "*" in s["Resource"]]
    assert len(anything) == 1
    assert all(action.startswith("greengrass:") for action in anything[0])


# ------------------------------------------------------------------ the commands


def run(aws: Aws, monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(stack, "client", aws.client)
    monkeypatch.setattr(stack, "outputs", lambda _name: aws.stack)
    parse(["fleet", *words])()


def test_the_commands_make_and_remove_a_device(
    aws: Aws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    thing = aws.thing("press-1")
    run(
        aws, monkeypatch, "provision", "--things", thing, "--group", aws.group, "--out", str(tmp_path)
    )  # fmt: skip
    assert f"{thing} is ready: copy" in capsys.readouterr().out
    run(aws, monkeypatch, "remove", "--things", f"{thing},absent", "--dry-run")
    told = capsys.readouterr().out
    assert f"would delete {thing}, arn:aws:iot:" in told
    assert "thing absent does not exist" in told
    with pytest.raises(SettingsError, match="no terminal to ask for confirmation: add --yes"):
        run(aws, monkeypatch, "remove", "--things", thing)
    assert aws.inventory()["things"] == [thing]
    run(aws, monkeypatch, "remove", "--things", thing, "--out", str(tmp_path), "--yes")
    assert capsys.readouterr().out == f"removed {thing}\n"


def test_a_folder_that_cannot_be_written_is_named(
    aws: Aws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=r"file.* cannot be (written|read)"):
        run(
            aws, monkeypatch, "provision",
            "--things", aws.thing("press-1"), "--group", aws.group, "--out", str(tmp_path / "file"),
        )  # fmt: skip


@pytest.mark.parametrize("names", ["a,,b", "a,a", ",".join(f"t{n}" for n in range(101))])
def test_a_list_that_is_none_is_refused(names: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["fleet", "remove", "--things", names])
    assert "fedgrass fleet remove: --things: " in capsys.readouterr().err
    assert stack_commands.MOST_THINGS == 100
