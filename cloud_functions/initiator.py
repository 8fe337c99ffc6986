"""The initiator: performs actions on runs, and announces open work again to devices that send a hello.

Invoked directly with ``{"action": "start", "run": name, "settings": {...}}`` (by the console, a timer, or
any caller with the right to; rounds/run_actions.py has all actions), and through the hello queue with
what the rule wrote.

Lambda and EventBridge deliver at least once, so an action carries an id and is performed once. It is the
event's own ``id``: the console makes one for each command, a timer names its occasion, an event of
EventBridge has one from its bus. An event without takes the id of Lambda's request, which stays the same
when Lambda repeats an asynchronous invocation. A source that itself delivers twice makes two requests of
it, and has to give an id.
"""

import base64
import json
from typing import Any

from cloud_functions import wiring
from cloud_functions.aws.sqs_batch import each_record
from cloud_functions.device_limits import Excess
from cloud_functions.monitoring import Metric
from cloud_functions.recovery import repair
from cloud_functions.rounds import hellos, run_actions
from cloud_functions.services import Services
from cloud_functions.wiring import LambdaContext
from fedgrass.federation import messages
from fedgrass.federation.errors import FedgrassError, MessageError


def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Do what is asked of a run, or take a batch of hellos."""
    services = wiring.services(context, averages=False)
    if "Records" in event:
        return each_record(event, services.log, lambda body: _hello(services, body))
    asked = _with_id(event, context.aws_request_id)
    with services.log.about(str(asked.get("run", ""))):
        return _asked(services, asked)


def _with_id(event: dict[str, Any], request: str) -> dict[str, Any]:
    """Return what an event asks, with the id by which it is done once."""
    detail = event.get("detail")
    if "detail-type" in event and isinstance(detail, dict):  # as a rule of EventBridge hands it on
        event = {"id": event.get("id", ""), **detail}
    return event if event.get("id") else {**event, "id": request}


def _asked(services: Services, event: dict[str, Any]) -> dict[str, Any]:
    """Do what is asked of a run; answer how it stands then, or why it is refused."""
    try:
        if event.get("action") == "repair":
            return repair.act(services, event)
        run = run_actions.act(services, event)
    except FedgrassError as error:
        services.log(f"refused: {error}", "WARNING")
        return {"refused": str(error)}
    return {"run": run.name, "state": run.state, "round": run.round, "reason": run.reason}


def _hello(services: Services, body: str) -> None:
    said = json.loads(body)
    device, now = said["device"], services.now()
    with services.log.about(device=device):
        if services.hellos.ignores(device, now):
            services.log.measure(Metric.MESSAGES_IGNORED, 1)
            return
        if services.hellos.useless(device, now) is Excess.REACHED:
            services.log(f"{device}: hellos are {services.hellos.reason}", "WARNING")
        try:
            messages.decode(base64.b64decode(said["payload"]), messages.Hello)
        except MessageError as error:
            services.log(f"{device}: hello refused: {error}", "WARNING")
            return
        hellos.hear(services, device)
