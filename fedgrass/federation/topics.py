"""The MQTT topics of a fleet: the one place where Python spells them.

The recipe's access control, the IoT policy and the topic rules spell them again in their own languages;
``tests/unit/federation/test_topics.py`` holds those against this file.
"""

from fedgrass.federation.errors import MessageError
from fedgrass.federation.messages.message_fields import TextEnum
from fedgrass.federation.names import checked_name

ROOT = "fedgrass"


class Kind(TextEnum):
    """The last level of a device's topics: what is said there, and by whom."""

    ANNOUNCE = "announce"  # cloud to device: work, and the verdict on a reply
    COMPLETE = "complete"  # device to cloud: the update lies in S3
    STATUS = "status"  # device to cloud: accepted, declined, progress, failed
    HELLO = "hello"  # device to cloud: after a start or a reconnect
    PREDICTOR = "predictor"  # device to everybody: which models its predictor serves, and how fast
    HEARTBEAT = "heartbeat"  # device to cloud, and heard again by the device itself


def of_device(fleet: str, thing: str, kind: Kind) -> str:
    """Return the topic of one device, ``fedgrass/<fleet>/clients/<thing>/<kind>``."""
    return f"{ROOT}/{checked_name('fleet', fleet)}/clients/{checked_name('thing', thing)}/{kind}"


def of_devices(fleet: str, kind: Kind) -> str:
    """Return the filter that hears one kind of message of every device of a fleet."""
    return f"{ROOT}/{checked_name('fleet', fleet)}/clients/+/{kind}"


def of_run(fleet: str, run: str) -> str:
    """Return the topic on which every change of a run's rounds is told, for people who watch."""
    return f"{ROOT}/{checked_name('fleet', fleet)}/rounds/{checked_name('run', run)}"


def of_models(fleet: str, task: str) -> str:
    """Return the topic on which each new global model of a task is told."""
    return f"{ROOT}/{checked_name('fleet', fleet)}/models/{checked_name('task', task)}"


def everything(fleet: str) -> str:
    """Return the filter that hears all that a fleet says."""
    return f"{ROOT}/{checked_name('fleet', fleet)}/#"


def parse_device_topic(topic: str) -> tuple[str, Kind]:
    """Return the thing and the kind of message that a device's topic names.

    Raises:
        MessageError: the topic is no device's topic.
    """
    match topic.split("/"):
        case [root, _, "clients", thing, kind] if root == ROOT and kind in set(Kind):
            return thing, Kind(kind)
    message = f"{topic!r} is no topic of a device: those are {ROOT}/<fleet>/clients/<thing>/<kind>"
    raise MessageError(message)
