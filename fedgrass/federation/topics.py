"""The MQTT topics of a fleet, spelled in this one place.

The recipes' access control, the IoT policy and the topic rules repeat them in their own languages;
``tests/unit/federation/test_topics.py`` compares those with this module.
"""

from fedgrass.federation.errors import MessageError
from fedgrass.federation.messages.message_fields import TextEnum, checked_name

ROOT = "fedgrass"


class Kind(TextEnum):
    """The last level of a device's topics."""

    ANNOUNCE = "announce"  # cloud to device: work, the verdict on a reply, a request for log lines
    COMPLETE = "complete"  # device to cloud: the update is in S3
    STATUS = "status"  # device to cloud: accepted, declined, progress, failed
    HELLO = "hello"  # device to cloud: after a start or a reconnect
    PREDICTOR = "predictor"  # device to all subscribers: which models its predictor serves, and how fast
    HEARTBEAT = "heartbeat"  # device to cloud; the device subscribes to its own heartbeats, too


def of_device(fleet: str, thing: str, kind: Kind) -> str:
    """Return the topic of one device, ``fedgrass/<fleet>/clients/<thing>/<kind>``."""
    return f"{ROOT}/{checked_name('fleet', fleet)}/clients/{checked_name('thing', thing)}/{kind}"


def of_run(fleet: str, run: str) -> str:
    """Return the topic on which every change of a run's rounds is published for operators."""
    return f"{ROOT}/{checked_name('fleet', fleet)}/rounds/{checked_name('run', run)}"


def of_models(fleet: str, task: str) -> str:
    """Return the topic on which each new global model of a task is published."""
    return f"{ROOT}/{checked_name('fleet', fleet)}/models/{checked_name('task', task)}"


def of_alias(fleet: str, task: str, alias: str) -> str:
    """Return the topic on which it is published that an alias of a task names another model."""
    return f"{of_models(fleet, task)}/aliases/{checked_name('alias', alias)}"


def everything(fleet: str) -> str:
    """Return the topic filter that matches every message of a fleet."""
    return f"{ROOT}/{checked_name('fleet', fleet)}/#"


def parse_device_topic(topic: str) -> tuple[str, Kind]:
    """Return the thing name and the message kind of a device's topic.

    Raises:
        MessageError: The topic is not a device's topic.
    """
    match topic.split("/"):
        case [root, _, "clients", thing, kind] if root == ROOT and kind in set(Kind):
            return thing, Kind(kind)
    message = f"{topic!r} is not a device's topic: those are {ROOT}/<fleet>/clients/<thing>/<kind>"
    raise MessageError(message)
