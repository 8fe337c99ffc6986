"""The initiator: starts a run when it is asked to, and announces open work again to devices that say hello.

Invoked directly with ``{"run": name, "settings": {...}}`` (by the console, a timer, or any caller with the
right to), and through the hello queue with what the hello rule wrote.
"""

import base64
import json
from typing import Any

from cloud_functions import coordinator, opening, wiring
from cloud_functions.cloud import Cloud
from cloud_functions.queue import each_record
from cloud_functions.wiring import LambdaContext
from fedgrass.federation import messages
from fedgrass.federation.errors import FedgrassError, MessageError, SettingsError
from fedgrass.federation.names import checked_name
from fedgrass.federation.settings import parse_settings


def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Start a run, or take a batch of hellos."""
    cloud = wiring.cloud(context)
    if "Records" in event:
        return each_record(event, cloud.log, lambda body: _hello(cloud, body))
    try:
        run = coordinator.start(cloud, _name(event), parse_settings(event.get("settings", {})))
    except FedgrassError as error:
        cloud.log(f"start refused: {error}")
        return {"refused": str(error)}
    return {"run": run.name, "state": run.state, "round": run.round, "reason": run.reason}


def _name(event: dict[str, Any]) -> str:
    if not isinstance(event.get("run"), str):
        message = f"the event names no run: {sorted(event)}; it takes {{'run': name, 'settings': {{...}}}}"
        raise SettingsError(message)
    return checked_name("run", event["run"])


def _hello(cloud: Cloud, body: str) -> None:
    said = json.loads(body)
    try:
        messages.decode(base64.b64decode(said["payload"]), messages.Hello)
    except MessageError as error:
        cloud.log(f"{said['device']}: hello refused: {error}")
        return
    opening.announce_again(cloud, said["device"])
