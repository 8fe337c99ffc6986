"""The certificate with which a person on this machine watches the topics of a fleet.

Like AWS IoT Core, the embedded broker serves no client without a certificate. An observer may subscribe to
everything of its fleet and may publish nothing.
"""

import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from fedgrass.console.watcher import Broker
from fedgrass.federation import topics
from fedgrass.local.cloud import ACCOUNT, EmbeddedCloud
from fedgrass.local.errors import ThingCreationError

if TYPE_CHECKING:
    from mypy_boto3_iot import IoTClient

THING = "observer"
CLIENT_PREFIX = "observer-"


def create_observer(cloud: EmbeddedCloud, fleet: str, folder: Path) -> Broker:
    """Create an observer of ``fleet``, write its certificate and key to ``folder``; return how it connects.

    Raises ThingCreationError.
    """
    name, everything = f"{THING}-{fleet}", f"{topics.everything(fleet).removesuffix('#')}*"
    resources = {
        "iot:Connect": f"client/{CLIENT_PREFIX}*",
        "iot:Subscribe": f"topicfilter/{everything}",
        "iot:Receive": f"topic/{everything}",
    }
    statements = [
        {"Effect": "Allow", "Action": action, "Resource": f"arn:aws:iot:{cloud.region}:{ACCOUNT}:{resource}"}
        for action, resource in resources.items()
    ]
    iot: IoTClient = cloud.client("iot")
    document = json.dumps({"Version": "2012-10-17", "Statement": statements})
    try:
        with suppress(iot.exceptions.ResourceAlreadyExistsException):
            iot.create_policy(policyName=name, policyDocument=document)
    except (ClientError, BotoCoreError) as error:
        message = f"the policy {name!r} of the fleet's observer could not be created: {error}"
        raise ThingCreationError(message) from error
    files = cloud.create_thing(name, folder, name)
    return Broker(
        cloud.iot_endpoint,
        cloud.mqtt_port,
        cloud.root_ca,
        files.certificate,
        files.private_key,
        CLIENT_PREFIX,
    )
