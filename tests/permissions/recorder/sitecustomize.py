"""Record AWS calls: Python imports this module at its start if its folder is on the module path.

It is on the path of functions and devices only, whose code is unchanged: events of botocore provide each call
with its parameters and status, and methods of paho the messages to the broker.
"""

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

FOLDER = "RECORDED_CALLS"  # variable with the folder to write to
_CONTENTS = {"Body", "payload", "MessageBody", "Item", "ExpressionAttributeValues", "Input"}
_KEPT = "recorded_parameters"
_lock = threading.Lock()


def write(who: str, service: str, operation: str, parameters: dict[str, Any], status: int = 200) -> None:
    """Write a call to the folder."""
    call = {
        "who": who,
        "service": service,
        "operation": operation,
        "parameters": parameters,
        "status": status,
    }
    with _lock, (Path(os.environ[FOLDER]) / f"{os.getpid()}.jsonl").open("a") as file:
        file.write(json.dumps(call, default=str) + "\n")


def handlers(who: str) -> list[tuple[str, Callable[..., None]]]:
    """Return the events of botocore and their handlers."""

    def keep(params: Any, context: dict[str, Any], **_: object) -> None:
        context[_KEPT] = _named(params)

    def told(model: Any, context: dict[str, Any], http_response: Any, **_: object) -> None:
        service = str(model.service_model.service_id.hyphenize())
        write(who, service, model.name, context.get(_KEPT, {}), http_response.status_code)

    return [("before-parameter-build", keep), ("after-call", told)]


def _named(value: Any) -> Any:
    """Return the names of resources in the parameters of a call, without contents."""
    if isinstance(value, dict):
        return {key: _named(inner) for key, inner in value.items() if key not in _CONTENTS}
    return [_named(inner) for inner in value] if isinstance(value, list) else value


def record_broker(set_method: Callable[[type, str, Any], None] = setattr) -> None:
    """Record the requests of things' MQTT clients to the broker; the client id is the name of the thing."""
    import paho.mqtt.client as paho  # noqa: PLC0415 - only processes with MQTT have it

    def recorded(method: str, operation: str) -> None:
        as_it_is = getattr(paho.Client, method)

        def call(self: Any, *words: Any, **named: Any) -> Any:
            client = self._client_id.decode()
            if client:
                topic = words[0] if words else named.get("topic", "")
                for one in topic if isinstance(topic, list) else [topic]:
                    name = one[0] if isinstance(one, tuple) else one
                    write(f"thing:{client}", "mqtt", operation, {"client": client, "topic": str(name)})
            return as_it_is(self, *words, **named)

        set_method(paho.Client, method, call)

    recorded("publish", "Publish")
    recorded("subscribe", "Subscribe")
    recorded("connect", "Connect")
    recorded("connect_async", "Connect")


def _who() -> str:
    if function := os.environ.get("AWS_LAMBDA_FUNCTION_NAME"):
        return f"function:{function}"
    if thing := os.environ.get("AWS_IOT_THING_NAME"):
        return f"thing:{thing}"
    return f"thing:{Path.cwd().name}" if Path("device.json").exists() else ""


if os.environ.get(FOLDER) and (_me := _who()):
    import botocore.handlers

    botocore.handlers.BUILTIN_HANDLERS.extend(handlers(_me))
    if not os.environ.get("AWS_LAMBDA_FUNCTION_NAME"):
        record_broker()
