"""``fedgrass queue``: list the messages in the stack's dead-letter queue, or send them back."""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from fedgrass.console.options import add_stack
from fedgrass.console.terminal import say

if TYPE_CHECKING:
    pass


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands to the ``fedgrass`` command."""
    queue = commands.add_parser("queue", help="look at the stack's dead letters, or send them back")
    actions = queue.add_subparsers(required=True, metavar="action")
    show = actions.add_parser("show", help="list the messages that could not be dealt with")
    show.set_defaults(run=_show)
    redrive = actions.add_parser("redrive", help="send each back to the queue that it came from")
    redrive.add_argument(
        "--drop-rule-failures",
        action="store_true",
        help="remove those that a topic rule could not hand on, which have no queue to go back to",
    )
    redrive.set_defaults(run=_redrive)
    for action in (show, redrive):
        add_stack(action)


def _show(arguments: argparse.Namespace) -> None:
    from fedgrass.console import stack  # noqa: PLC0415  # boto3 takes a third of a second

    with stack.refusals():
        letters = _dead_letters(arguments).show()
    for letter in letters:
        say(letter.line)
    say(f"{len(letters)} dead letters")


def _redrive(arguments: argparse.Namespace) -> None:
    from fedgrass.console import stack  # noqa: PLC0415  # as above

    with stack.refusals():
        for letter, done in _dead_letters(arguments).redrive(drop_rule_failures=arguments.drop_rule_failures):
            say(f"{done}: {letter.line}")


def _dead_letters(arguments: argparse.Namespace) -> "DeadLetters":
    from fedgrass.console import stack  # noqa: PLC0415  # as above

    return DeadLetters(stack.client, stack.outputs(arguments.stack))


Clients = Callable[[str], Any]
AT_ONCE = 10  # messages in one request, the most that SQS gives
HIDDEN_SECONDS = 60  # while a message is looked at; it comes back if this process dies
_EMPTY_ANSWERS = 2  # one after the other: a queue in many places may give nothing although it has something
LONGEST_SHOWN = 200


class Letter(NamedTuple):
    """One message of the dead-letter queue."""

    receipt: str
    body: str
    source: str  # the ARN of the queue that gave it up; empty if a rule could not hand it on
    received: int

    @property
    def line(self) -> str:
        """What it says, in a line."""
        origin = self.source.rpartition(":")[2] or "a rule"
        return f"from {origin}: {self._said()[:LONGEST_SHOWN]}"

    def _said(self) -> str:
        try:
            said = json.loads(self.body)
        except ValueError:
            return repr(self.body)
        if isinstance(said, dict) and "failures" in said:
            reasons = ", ".join(str(one.get("errorMessage", one)) for one in said["failures"])
            return f"{said.get('ruleName')} on {said.get('topic')} failed: {reasons}"
        return json.dumps(said)


class DeadLetters:
    """The dead-letter queue of one deployed stack.

    Args:
        clients: gives the boto3 client of a service.
        stack: the stack's outputs.
    """

    def __init__(self, clients: Clients, stack: Mapping[str, str]) -> None:
        self._sqs = clients("sqs")
        self._url = stack["DeadLettersQueueUrl"]

    def show(self) -> list[Letter]:
        """Return all messages that are there; they stay."""
        letters = list(self._receive())
        for letter in letters:
            self._sqs.change_message_visibility(
                QueueUrl=self._url, ReceiptHandle=letter.receipt, VisibilityTimeout=0
            )
        return letters

    def redrive(self, *, drop_rule_failures: bool = False) -> Iterator[tuple[Letter, str]]:
        """Send each message back to the queue that gave it up; yield it and what was done with it.

        What a rule could not hand on has no queue to go back to: a device repeats what matters until it is
        answered. It stays, or is dropped if asked. A message is removed only once it is sent, so that one
        that this is interrupted at may come twice, which the functions expect.
        """
        for letter in list(self._receive()):
            if letter.source:
                name = letter.source.rpartition(":")[2]
                target = self._sqs.get_queue_url(QueueName=name)["QueueUrl"]
                self._sqs.send_message(QueueUrl=target, MessageBody=letter.body)
                done = f"sent back to {name}"
            elif drop_rule_failures:
                done = "dropped"
            else:
                self._sqs.change_message_visibility(
                    QueueUrl=self._url, ReceiptHandle=letter.receipt, VisibilityTimeout=0
                )
                yield letter, "stays"
                continue
            self._sqs.delete_message(QueueUrl=self._url, ReceiptHandle=letter.receipt)
            yield letter, done

    def _receive(self) -> Iterator[Letter]:
        seen: set[str] = set()
        empty = 0
        while empty < _EMPTY_ANSWERS:
            answer = self._sqs.receive_message(
                QueueUrl=self._url,
                MaxNumberOfMessages=AT_ONCE,
                MessageSystemAttributeNames=["DeadLetterQueueSourceArn", "ApproximateReceiveCount"],
                VisibilityTimeout=HIDDEN_SECONDS,
                WaitTimeSeconds=1,
            )
            fresh = [one for one in answer.get("Messages", []) if one["MessageId"] not in seen]
            empty = 0 if fresh else empty + 1
            for one in fresh:
                seen.add(one["MessageId"])
                attributes = one.get("Attributes", {})
                yield Letter(
                    receipt=one["ReceiptHandle"],
                    body=one["Body"],
                    source=attributes.get("DeadLetterQueueSourceArn", ""),
                    received=int(attributes.get("ApproximateReceiveCount", 1)),
                )
