"""provisioning/fleet.yaml: a device registers itself with the claim of its image, in the embedded cloud.

Like the plugin of the classic nucleus, through the MQTT topics of AWS. The embedded cloud does not support
``create-from-csr``, which Nucleus Lite uses instead of ``create``.
"""

import io
import json
import queue
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from fedgrass.console.provisioning.core_installation import core_policy
from fedgrass.local.aws.embedded_cloud import EmbeddedCloud

PATIENCE = 30.0
DEVICE_POLICY = "claimed-device"
PREFIX = "claimed-"
GROUP = "claimed-devices"
VALUES = {
    "DevicePolicyName": DEVICE_POLICY,
    "RoleAlias": "fedgrass-plant",
    "ThingGroupName": GROUP,
    "ThingPrefix": PREFIX,
}
REGISTER = "$aws/provisioning-templates/{}/provision/json"
CREATE = "$aws/certificates/create/json"


def wait_for(what: Callable[[], Any], name: str) -> Any:
    deadline = time.monotonic() + PATIENCE
    while not (found := what()):
        assert time.monotonic() < deadline, f"{name} did not come"
        time.sleep(0.02)
    return found


def deploy(cloud: EmbeddedCloud, project: Path, stack: str, values: dict[str, str]) -> dict[str, str]:
    """Deploy provisioning/fleet.yaml; return the outputs of the stack."""
    cloudformation = cloud.client("cloudformation")
    cloudformation.create_stack(
        StackName=stack,
        TemplateBody=(project / "provisioning" / "fleet.yaml").read_text(),
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in values.items()],
        Capabilities=["CAPABILITY_IAM"],
    )

    def described() -> dict[str, Any]:
        found: dict[str, Any] = cloudformation.describe_stacks(StackName=stack)["Stacks"][0]
        return found

    wait_for(lambda: not described()["StackStatus"].endswith("IN_PROGRESS"), "the stack")
    assert described()["StackStatus"] == "CREATE_COMPLETE"
    return {output["OutputKey"]: output["OutputValue"] for output in described()["Outputs"]}


@pytest.fixture(scope="module")
def outputs(embedded_cloud: EmbeddedCloud, project: Path) -> Iterator[dict[str, str]]:
    """The outputs of a deployed stack."""
    nothing = json.dumps({"Version": "2012-10-17", "Statement": []})
    embedded_cloud.client("iot").create_policy(policyName=DEVICE_POLICY, policyDocument=nothing)
    yield deploy(embedded_cloud, project, "claims", VALUES)
    embedded_cloud.client("cloudformation").delete_stack(StackName="claims")


@pytest.fixture(scope="module")
def claim(embedded_cloud: EmbeddedCloud, outputs: dict[str, str], tmp_path_factory: Any) -> Path:
    """The folder with certificate and key of the claim, as in the image of every device."""
    folder: Path = tmp_path_factory.mktemp("claim")
    iot = embedded_cloud.client("iot")
    made = iot.create_keys_and_certificate(setAsActive=True)
    iot.attach_policy(policyName=outputs["ClaimPolicyName"], target=made["certificateArn"])
    (folder / "certificate.pem").write_text(made["certificatePem"])
    (folder / "private.key").write_text(made["keyPair"]["PrivateKey"])
    return folder


class Connection:
    """An MQTT connection that sends requests, with responses on ``accepted`` or ``rejected``."""

    def __init__(self, client: mqtt.Client) -> None:
        self._client = client
        self._heard: queue.Queue[mqtt.MQTTMessage] = queue.Queue()
        client.on_message = lambda _client, _data, message: self._heard.put(message)

    def ask(self, topic: str, question: object) -> tuple[str, dict[str, Any]]:
        for answer in ("accepted", "rejected"):
            self._client.subscribe(f"{topic}/{answer}", qos=1)
        self._client.publish(topic, json.dumps(question), qos=1)
        heard = self._heard.get(timeout=PATIENCE)
        return heard.topic.rpartition("/")[2], json.loads(heard.payload)


@contextmanager
def connected(cloud: EmbeddedCloud, folder: Path, client_id: str) -> Iterator[Connection]:
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=client_id)
    client.tls_set(str(cloud.root_ca), str(folder / "certificate.pem"), str(folder / "private.key"))
    client.connect(cloud.iot_endpoint, cloud.mqtt_port)
    client.loop_start()
    try:
        wait_for(client.is_connected, "the MQTT connection")
        yield Connection(client)
    finally:
        client.disconnect()
        client.loop_stop()


def register(
    cloud: EmbeddedCloud, outputs: dict[str, str], claim: Path, serial: str
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Register like a device at its first start; return the response and the certificate."""
    with connected(cloud, claim, str(uuid.uuid4())) as connection:
        kind, own = connection.ask(CREATE, {})
        assert kind == "accepted", own
        question = {
            "certificateOwnershipToken": own["certificateOwnershipToken"],
            "parameters": {"SerialNumber": serial},
        }
        kind, answer = connection.ask(REGISTER.format(outputs["TemplateName"]), question)
        return kind, answer, own


def test_a_device_registers_itself_and_is_a_core_of_the_fleet(
    embedded_cloud: EmbeddedCloud, outputs: dict[str, str], claim: Path, tmp_path: Path
) -> None:
    kind, answer, own = register(embedded_cloud, outputs, claim, "0815")
    assert kind == "accepted", answer
    assert answer["thingName"] == f"{PREFIX}0815"

    iot = embedded_cloud.client("iot")
    thing = answer["thingName"]
    assert iot.list_things_in_thing_group(thingGroupName=outputs["ThingGroupName"])["things"] == [thing]
    (arn,) = iot.list_thing_principals(thingName=thing)["principals"]
    assert arn.endswith(own["certificateId"])
    names = {policy["policyName"] for policy in iot.list_attached_policies(target=arn)["policies"]}
    assert DEVICE_POLICY in names
    (core,) = names - {DEVICE_POLICY}
    # A device that registers by claim has the same policy as one that an operator provisions.
    account = arn.split(":")[4]
    expected = core_policy(
        thing, "fedgrass-plant", partition="aws", region=embedded_cloud.region, account=account
    )
    assert json.loads(iot.get_policy(policyName=core)["policyDocument"]) == expected

    (tmp_path / "certificate.pem").write_text(own["certificatePem"])
    (tmp_path / "private.key").write_text(own["privateKey"])
    with connected(embedded_cloud, tmp_path, thing):
        described = iot.describe_certificate(certificateId=own["certificateId"])
        assert described["certificateDescription"]["status"] == "ACTIVE"


def test_a_name_that_is_registered_cannot_be_claimed_again(
    embedded_cloud: EmbeddedCloud, outputs: dict[str, str], claim: Path
) -> None:
    """The holder of a claim cannot take over another device."""
    first, _, own = register(embedded_cloud, outputs, claim, "4711")
    second, answer, _ = register(embedded_cloud, outputs, claim, "4711")
    assert (first, second) == ("accepted", "rejected"), answer
    principals = embedded_cloud.client("iot").list_thing_principals(thingName=f"{PREFIX}4711")["principals"]
    assert [arn.rpartition("/")[2] for arn in principals] == [own["certificateId"]]


def test_a_serial_number_that_is_none_is_refused(
    embedded_cloud: EmbeddedCloud, outputs: dict[str, str], claim: Path
) -> None:
    kind, answer, _ = register(embedded_cloud, outputs, claim, "a/b #")
    assert (kind, answer["errorCode"]) == ("rejected", "ProvisioningFailed")


HOOK = """
def handler(event, context):
    return {"allowProvisioning": event["parameters"]["SerialNumber"].startswith("known-")}
"""


@pytest.mark.usefixtures("outputs")  # creates the device policy
def test_a_hook_of_ones_own_decides_who_may_register(embedded_cloud: EmbeddedCloud, project: Path) -> None:
    """A stack with a hook can be deployed: the permission is created before AWS IoT checks it."""
    code = io.BytesIO()
    with zipfile.ZipFile(code, "w") as archive:
        archive.writestr("hook.py", HOOK)
    made = embedded_cloud.client("lambda").create_function(
        FunctionName="claims-hook",
        Runtime="python3.12",
        Role="arn:aws:iam::000000000000:role/hook",
        Handler="hook.handler",
        Code={"ZipFile": code.getvalue()},
    )
    values = {"HookFunctionArn": made["FunctionArn"], "ThingGroupName": "hooked", "ThingPrefix": "hooked-"}
    found = deploy(embedded_cloud, project, "claims-with-hook", {**VALUES, **values})
    described = embedded_cloud.client("iot").describe_provisioning_template(
        templateName=found["TemplateName"]
    )
    assert described["preProvisioningHook"]["targetArn"] == made["FunctionArn"]
    embedded_cloud.client("cloudformation").delete_stack(StackName="claims-with-hook")


def test_the_claim_may_do_nothing_but_register(
    embedded_cloud: EmbeddedCloud, outputs: dict[str, str]
) -> None:
    found = embedded_cloud.client("iot").get_policy(policyName=outputs["ClaimPolicyName"])
    statements = json.loads(found["policyDocument"])["Statement"]
    resources = [
        resource
        for statement in statements
        for resource in (
            [statement["Resource"]] if isinstance(statement["Resource"], str) else statement["Resource"]
        )
    ]
    places = {resource.split(":", 5)[5] for resource in resources}
    kinds = ("create/*", "create-from-csr/*")
    template = f"$aws/provisioning-templates/{outputs['TemplateName']}/provision/*"
    assert places == {
        "client/????????-????-????-????-????????????",
        *(f"{kind}/$aws/certificates/{what}" for kind in ("topic", "topicfilter") for what in kinds),
        f"topic/{template}",
        f"topicfilter/{template}",
    }
