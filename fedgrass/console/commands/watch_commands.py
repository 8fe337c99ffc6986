"""The command ``watch``."""

from typing import Annotated, Literal

from cyclopts import Parameter

from fedgrass.console.command_line import ON_STACK, Output, StackOptions, number_between, whole_number
from fedgrass.console.deferred import deferred

Kind = Literal["announce", "status", "complete", "heartbeat", "hello", "predictor", "round", "model"]
_WATCH = deferred("fedgrass.console.topic_feed.topic_watch:watch")


def watch(
    *,
    topic: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    run: str = "",
    device: str = "",
    kind: Annotated[tuple[Kind, ...], Parameter(negative=())] = (),
    count: Annotated[int, whole_number(0, 10**9, show_default=False)] = 0,
    seconds: Annotated[float, number_between(0, 10**9, metavar="SECONDS", show_default=False)] = 0.0,
    access: StackOptions = ON_STACK,
    output: Output = "text",
) -> None:
    """Print the messages on the fleet's topics as they pass, until Ctrl-C.

    It subscribes over WebSockets with the credentials of the AWS CLI, which need iot:Connect, iot:Subscribe
    and iot:Receive on the fleet's topics, and iot:DescribeEndpoint.

    Args:
        topic: only topics that match this MQTT filter, such as clients/+/status below the fleet's topics
            (several).
        run: only messages of this run.
        device: only messages of this device, and changes of rounds that name it.
        kind: only this kind of message (several).
        count: end after this number of messages; 0: never.
        seconds: end after this time; 0: never.
    """
    access.use()
    _WATCH(access.stack, topic, run, device, kind, count, seconds, output)
