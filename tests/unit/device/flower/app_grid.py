"""A Grid of Flower whose nodes answer in this process: by the app itself, or by tasks of fedgrass."""

from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from components.trainer.flower.app_content import Content
from components.trainer.flower.app_state import read_state, write_state
from components.trainer.flower.flower_client import content_of, to_record_dict
from components.trainer.flower.flower_task import FlowerTask
from components.trainer.tasks.task import RoundPlace, TaskMessage
from fedgrass.federation.messages.message_types import MessageHeader
from fedgrass.federation.task_messages.node_ids import node_id, run_id

Node = Callable[[Any], Any]  # returns the reply to a message


class AppGrid(Grid):  # type: ignore[misc] # flwr has no types here
    """Asks its nodes one after the other.

    Args:
        nodes: by node id.
    """

    def __init__(self, nodes: dict[int, Node]) -> None:
        self._nodes = nodes
        self._replies: dict[str, Any] = {}

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Any:
        return SimpleNamespace(run_id=1)

    def create_message(self, *arguments: Any, **named: Any) -> Any:
        return Message(*arguments, **named)

    def get_node_ids(self) -> Iterable[int]:
        return list(self._nodes)

    def push_messages(self, messages: Iterable[Any]) -> Iterable[str]:
        for message in messages:
            number = str(len(self._replies))
            message.metadata.__dict__["_message_id"] = number
            self._replies[number] = self._nodes[message.metadata.dst_node_id](message)
            yield number

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Any]:
        return [self._replies[number] for number in message_ids]

    def send_and_receive(self, messages: Iterable[Any], *, timeout: float | None = None) -> Iterable[Any]:  # noqa: ARG002
        return self.pull_messages(list(self.push_messages(messages)))


def own_node(app: Any, device: str, run_config: dict[str, Any], **node_config: Any) -> Node:
    """Return a node that calls the app as Flower does, with a state in memory."""
    assert isinstance(app, ClientApp)
    context = Context(run_id("run"), node_id(device), node_config, RecordDict(), run_config)

    def answer(message: Any) -> Any:
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = context.run_id, context.node_id, 1
        reply = app(message=message, context=context)
        TaskIdentity.node_id = 1
        return reply

    return answer


def task_node(task: Callable[[], FlowerTask], device: str, folder: Path) -> Node:
    """Return a node that answers as a device of fedgrass, restarted before each message.

    Args:
        task: returns the task of the app.
        device: thing name.
        folder: for the state and the files of contents.
    """
    numbers = iter(range(1, 1000))

    def answer(message: Any) -> Any:
        number, metadata = next(numbers), message.metadata
        place = RoundPlace("run", number, device, folder / f"{device}.state", folder / f"{device}.after")
        header = MessageHeader(
            type=metadata.message_type,
            group=metadata.group_id,
            ttl=metadata.ttl,
            created_at=metadata.created_at,
        )
        content = through_a_file(content_of(message.content), folder / f"{device}.message")
        started = task()
        started.begin_round(place)
        found = started.answer(TaskMessage(header, content.records, content.data))
        reply = through_a_file(
            Content(found.records, list(map(bytes, found.data))), folder / f"{device}.reply"
        )
        if place.state_after.exists():
            place.state_after.replace(place.state)
        TaskIdentity.node_id = 1
        return Message(to_record_dict(reply), reply_to=message)

    return answer


def through_a_file(content: Content, file: Path) -> Content:
    """Return a content as it is after its way through a file."""
    write_state(file, content)
    return read_state(file)
