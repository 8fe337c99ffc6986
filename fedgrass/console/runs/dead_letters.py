"""The stack's dead-letter queue: list its messages, or send them back to the queues they came from."""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from msgspec import Struct

from fedgrass.console import stack
from fedgrass.console.aws_clients import Clients
from fedgrass.console.results import reported_steps, show_result
from fedgrass.console.terminal import say

_BATCH_SIZE = 10  # messages per request, the maximum of SQS
_HIDDEN_SECONDS = 60  # a message is hidden while it is read, and reappears if this process dies
_EMPTY_RESPONSES = (
    2  # in succession end the reading: a distributed queue may return none although it has some
)
_LONGEST_SHOWN = 200  # characters of a message


class Letter(NamedTuple):
    """One message of the dead-letter queue."""

    receipt: str
    body: str
    source: str  # ARN of the queue that gave up on it; empty if a topic rule could not deliver it
    received: int

    @property
    def line(self) -> str:
        """Its origin and content in one line."""
        origin = self.source.rpartition(":")[2] or "a rule"
        return f"from {origin}: {self._summary()[:_LONGEST_SHOWN]}"

    def _summary(self) -> str:
        try:
            content = json.loads(self.body)
        except ValueError:
            return repr(self.body)
        if isinstance(content, dict) and "failures" in content:
            reasons = ", ".join(str(one.get("errorMessage", one)) for one in content["failures"])
            return f"{content.get('ruleName')} on {content.get('topic')} failed: {reasons}"
        return json.dumps(content)


class DeadLetter(Struct, frozen=True, kw_only=True):
    """A message that could not be processed."""

    line: str  # its origin and content in one line, cut to 200 characters
    body: str  # the message as it is
    source: str  # name of the queue that gave up on it; empty if a topic rule could not deliver it
    received: int  # how often it was received from the dead-letter queue


class DeadLetterList(Struct, frozen=True, kw_only=True):
    """The JSON of `fedgrass queue show`."""

    letters: tuple[DeadLetter, ...]
    count: int


class DeadLetters:
    """The dead-letter queue of one deployed stack.

    Args:
        clients: returns the boto3 client of a service.
        outputs: the outputs of the stack.
    """

    def __init__(self, clients: Clients, outputs: Mapping[str, str]) -> None:
        self._sqs = clients("sqs")
        self._url = outputs["DeadLettersQueueUrl"]

    def count(self) -> int:
        """Return about how many messages the queue holds; reads none of them."""
        answer = self._sqs.get_queue_attributes(
            QueueUrl=self._url, AttributeNames=["ApproximateNumberOfMessages"]
        )
        return int(answer["Attributes"]["ApproximateNumberOfMessages"])

    def show(self, most: int | None = None) -> list[Letter]:
        """Return ``most`` messages, all if it is None; they stay in the queue."""
        letters = list(islice(self._receive(), most))
        for letter in letters:
            self._sqs.change_message_visibility(
                QueueUrl=self._url, ReceiptHandle=letter.receipt, VisibilityTimeout=0
            )
        return letters

    def redrive(self, *, drop_rule_failures: bool = False) -> Iterator[tuple[Letter, str]]:
        """Send each message back to the queue that gave up on it; yield the message and what was done.

        A message that a topic rule could not deliver has no queue to return to. It stays, or is dropped if
        asked: devices repeat a message until it is answered. A message is deleted only after it was sent, so
        an interruption may deliver one twice, which the functions expect.
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
        while empty < _EMPTY_RESPONSES:
            response = self._sqs.receive_message(
                QueueUrl=self._url,
                MaxNumberOfMessages=_BATCH_SIZE,
                MessageSystemAttributeNames=["DeadLetterQueueSourceArn", "ApproximateReceiveCount"],
                VisibilityTimeout=_HIDDEN_SECONDS,
                WaitTimeSeconds=1,
            )
            fresh = [one for one in response.get("Messages", []) if one["MessageId"] not in seen]
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


@stack.refusals()
def show_command(*, stack_name: str, output: str) -> None:
    """Print every dead letter of a stack."""
    show_result(letter_list(_dead_letters(stack_name).show()), output, _draw)


def letter_list(letters: Sequence[Letter]) -> DeadLetterList:
    """Return dead letters as `fedgrass queue show` prints them."""
    found = tuple(
        DeadLetter(
            line=letter.line,
            body=letter.body,
            source=letter.source.rpartition(":")[2],
            received=letter.received,
        )
        for letter in letters
    )
    return DeadLetterList(letters=found, count=len(found))


def _draw(letters: DeadLetterList) -> None:
    for letter in letters.letters:
        say(letter.line)
    say(f"{letters.count} dead letters")


@stack.refusals()
def redrive_command(*, stack_name: str, drop_rule_failures: bool, output: str) -> None:
    """Send every dead letter of a stack back to its queue, and print what was done with it."""
    with reported_steps(output):
        for letter, done in _dead_letters(stack_name).redrive(drop_rule_failures=drop_rule_failures):
            say(f"{done}: {letter.line}")


def _dead_letters(stack_name: str) -> DeadLetters:
    return DeadLetters(stack.client, stack.outputs(stack_name))
