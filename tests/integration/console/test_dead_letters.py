"""Dead letters are listed and sent back to their queues, in SQS of the embedded cloud."""

import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from fedgrass.console.runs.dead_letters import DeadLetters
from fedgrass.local.aws.embedded_cloud import EmbeddedCloud
from tests.e2e.processes import wait_until

RULE_FAILURE = {
    "ruleName": "replies",
    "topic": "fedgrass/garden/clients/press-1/complete",
    "failures": [{"failedAction": "SqsAction", "errorMessage": "access denied"}],
}


class Queues:
    """A queue that gives up on a message after one receive, and its dead-letter queue."""

    def __init__(self, sqs: Any) -> None:
        self.sqs = sqs
        name = f"replies-{uuid4().hex[:8]}"
        self.dead = sqs.create_queue(QueueName=f"{name}-dead")["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=self.dead, AttributeNames=["QueueArn"])["Attributes"][
            "QueueArn"
        ]
        redrive = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 1})
        attributes = {"RedrivePolicy": redrive, "VisibilityTimeout": "0"}
        self.source = sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
        self.name = name

    def give_up(self, *bodies: str) -> None:
        """Move messages to the dead-letter queue."""
        for body in bodies:
            self.sqs.send_message(QueueUrl=self.source, MessageBody=body)

        def all_dead() -> bool:
            self.sqs.receive_message(QueueUrl=self.source, MaxNumberOfMessages=10, VisibilityTimeout=0)
            return self.count(self.dead) == len(bodies)

        wait_until(all_dead, "the messages to be given up")

    def count(self, url: str) -> int:
        names = ["ApproximateNumberOfMessages"]
        found = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        return int(found["ApproximateNumberOfMessages"])


@pytest.fixture
def queues(embedded_cloud: EmbeddedCloud) -> Iterator[Queues]:
    found = Queues(embedded_cloud.client("sqs"))
    yield found
    for url in (found.source, found.dead):
        found.sqs.delete_queue(QueueUrl=url)


def letters(queues: Queues, cloud: EmbeddedCloud) -> DeadLetters:
    return DeadLetters(cloud.client, {"DeadLettersQueueUrl": queues.dead})


def test_dead_letters_are_shown_with_their_origin_and_stay(
    queues: Queues, embedded_cloud: EmbeddedCloud
) -> None:
    queues.give_up(*(json.dumps({"number": number}) for number in range(12)))
    lines = sorted(letter.line for letter in letters(queues, embedded_cloud).show())
    assert lines == sorted(f'from {queues.name}: {{"number": {number}}}' for number in range(12))
    assert queues.count(queues.dead) == 12


def test_dead_letters_go_back_to_the_queue_that_gave_them_up(
    queues: Queues, embedded_cloud: EmbeddedCloud
) -> None:
    queues.give_up("first", "second")
    done = [words for _, words in letters(queues, embedded_cloud).redrive()]
    assert done == [f"sent back to {queues.name}"] * 2
    assert (queues.count(queues.source), queues.count(queues.dead)) == (2, 0)


def test_what_a_rule_could_not_hand_on_stays_unless_it_is_to_be_dropped(
    queues: Queues, embedded_cloud: EmbeddedCloud
) -> None:
    queues.sqs.send_message(QueueUrl=queues.dead, MessageBody=json.dumps(RULE_FAILURE))
    dead = letters(queues, embedded_cloud)
    ((letter, done),) = dead.redrive()
    assert done == "stays"
    assert letter.line == (
        "from a rule: replies on fedgrass/garden/clients/press-1/complete failed: access denied"
    )
    assert [words for _, words in dead.redrive(drop_rule_failures=True)] == ["dropped"]
    assert queues.count(queues.dead) == 0
