"""Concurrent averagers: replies that the queue delivers again while they are being processed."""

import base64
import json
import time
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import Any

from fedgrass.console.runs.live_view import Watcher
from fedgrass.federation.errors import MessageError
from fedgrass.federation.topics import Kind, parse_device_topic
from tests.chaos.world import World

RACE, AGAIN = 0.08, 0.05  # shares of the completions


class Races:
    """Receives every completion; delivers some to two averagers at once, and some a second time later."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._dice = world.faults.dice(f"races in {world.name}")
        self._heard: SimpleQueue[dict[str, object]] = SimpleQueue()
        self._watcher = Watcher(world.name, world.observer, self._hear)

    def play(self) -> None:
        """Run until the faults end."""
        faults, queue = self._world.faults, self._world.stack["RepliesQueueUrl"]
        with self._watcher, ThreadPoolExecutor(2, thread_name_prefix="race") as averagers:
            while faults.active:
                try:
                    body = json.dumps(self._heard.get(timeout=0.5))
                except Empty:
                    continue
                drawn = self._dice.random()
                if drawn < RACE:
                    faults.count("averagers_raced")
                    list(averagers.map(self._invoke, [body, body]))
                elif drawn < RACE + AGAIN:
                    faults.count("reply_queued_twice")
                    self._world.cloud.client("sqs").send_message(QueueUrl=queue, MessageBody=body)

    def _hear(self, topic: str, payload: bytes) -> None:
        try:
            thing, kind = parse_device_topic(topic)
        except MessageError:
            return
        if kind is Kind.COMPLETE:
            # In the format of the reply rule.
            said = {
                "payload": base64.b64encode(payload).decode(),
                "device": thing,
                "kind": kind,
                "client": thing,
                "received_at": time.time_ns() // 1_000_000,
            }
            self._heard.put(said)

    def _invoke(self, body: str) -> None:
        event: dict[str, Any] = {"Records": [{"messageId": "race", "body": body}]}
        # The result is ignored: the averager may be killed, or the message may have to be retried.
        self._world.cloud.client("lambda").invoke(
            FunctionName=self._world.stack["AveragerName"], Payload=json.dumps(event).encode()
        )
