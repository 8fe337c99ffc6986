"""The initiator: performs actions on runs, and announces open work again to devices that send a hello.

It is invoked directly with ``{"action": "start", "run": name, "settings": {...}}`` by the console, a timer or
any other authorized caller (rounds/run_actions.py has all actions), and by the hello queue with the messages
of the hello rule.

Lambda and EventBridge deliver at least once, so an action has an id and is performed once per id. The id is
the event's own ``id``: the console creates one for each command, a timer uses the time of its schedule, and
an event of EventBridge has one from its bus. An event without an id takes that of the Lambda request, which
stays the same when Lambda retries an asynchronous invocation. A source that may itself deliver twice creates
two requests, and therefore has to set an id.

An event may have a ``by``, which is kept in the run's history: the console sends the ARN of its credentials.
An event of EventBridge without one has its source instead.
"""

import base64
import json
from collections.abc import Callable
from typing import Any

from cloud_functions import wiring
from cloud_functions.aws.sqs_batch import each_record
from cloud_functions.device_limits import Reaction
from cloud_functions.devices import forget_device, log_requests
from cloud_functions.models.alias_actions import ALIAS_ACTIONS
from cloud_functions.monitoring import Metric
from cloud_functions.recovery import repair
from cloud_functions.rounds import hellos, run_actions
from cloud_functions.server_apps import device_list
from cloud_functions.services import Services
from cloud_functions.wiring import LambdaContext
from fedgrass.federation import messages
from fedgrass.federation.errors import FedgrassError, MessageError

# Actions that are not on a run alone; rounds/run_actions.py has the others.
_OTHER_ACTIONS: dict[str, Callable[[Services, dict[str, Any]], dict[str, Any]]] = {
    "devices": device_list.list_devices,
    "forget": forget_device.forget,
    "logs": log_requests.request_logs,
    "repair": repair.act,
    **ALIAS_ACTIONS,
}


def handler(event: object, context: LambdaContext) -> dict[str, Any]:
    """Perform an action on a run, or process a batch of hellos."""
    if not isinstance(event, dict):
        return {"refused": "the event is not a JSON object: it takes {'action': ..., 'run': name}"}
    services = wiring.services(context, can_average=False)
    if "Records" in event:
        return each_record(event, services.log, lambda body: _hello(services, body))
    action = _with_id(event, context.aws_request_id)
    with services.log.about(str(action.get("run", ""))):
        return _perform(services, action)


def _with_id(event: dict[str, Any], request_id: str) -> dict[str, Any]:
    """Return the action of an event, with the id by which it is performed once."""
    detail = event.get("detail")
    if "detail-type" in event and isinstance(detail, dict):  # in the form in which EventBridge delivers it
        event = {"id": event.get("id", ""), "by": event.get("source", ""), **detail}
    return event if event.get("id") else {**event, "id": request_id}


def _perform(services: Services, event: dict[str, Any]) -> dict[str, Any]:
    """Perform an action; return the state of the run after it, or why it was refused."""
    try:
        if (other := _OTHER_ACTIONS.get(str(event.get("action")))) is not None:
            return other(services, event)
        run = run_actions.act(services, event, others=_OTHER_ACTIONS)
    except FedgrassError as error:
        services.log(f"refused: {error}", "WARNING")
        return {"refused": str(error)}
    return {"run": run.name, "state": run.state, "round": run.round, "reason": run.reason}


def _hello(services: Services, body: str) -> None:
    message = json.loads(body)
    device, now = message["device"], services.now()
    with services.log.about(device=device):
        if services.hellos.ignores(device, now):
            services.log.measure(Metric.MESSAGES_IGNORED, 1)
            return
        if services.hellos.count_useless(device, now) is Reaction.IGNORE:
            services.log(f"hellos are {services.hellos.reason}", "WARNING")
        try:
            messages.decode(base64.b64decode(message["payload"]), messages.Hello)
        except MessageError as error:
            services.log(f"hello refused: {error}", "WARNING")
            return
        hellos.answer_hello(services, device)
