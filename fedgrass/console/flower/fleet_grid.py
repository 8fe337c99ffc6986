"""Flower's Grid over the devices of a fleet: nodes are devices, messages travel in rounds of the run."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from uuid import uuid4

from fedgrass.console.flower.flower_api import (
    FLOWER_LOGGER,
    SUPERLINK_NODE_ID,
    Error,
    ErrorCode,
    Grid,
    Message,
    Metadata,
    NodeInfo,
    RecordDict,
    Run,
    RunNotRunningException,
    from_records,
    to_parts,
)
from fedgrass.console.task_messages.content_files import StoredContent
from fedgrass.console.task_messages.exchange_ports import ExchangeClosed, ExchangeFailed
from fedgrass.console.task_messages.message_exchange import MessageExchange
from fedgrass.console.task_messages.message_outcomes import Failure, Outcome
from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.task_messages import node_ids

_NODES_SECONDS = 1.0  # for which the list of nodes is kept; twice as long each time that it has not changed
_LONGEST_NODES_SECONDS = 5.0
_GATHER_SECONDS = 0.02  # in which threads that push one message each come together in one round
_LONGEST_GROUP = 128  # characters, of MessageHeader.group
_CODES = {
    "declined": ErrorCode.NODE_UNAVAILABLE,
    "silent": ErrorCode.NODE_UNAVAILABLE,
    "unknown": ErrorCode.NODE_UNAVAILABLE,
    "failed": ErrorCode.CLIENT_APP_RAISED_EXCEPTION,
    "late": ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
    "refused": ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
    "damaged": ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
    "expired": ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
}


class FleetGrid(Grid):  # type: ignore[misc]  # flwr is not type-checked
    """A Grid whose nodes are the devices of a run.

    It may be used by several threads, as Flower's former API does.

    Args:
        exchange: of the run's messages.
        run: name of the run.
        clock: returns the seconds since the epoch.
    """

    def __init__(self, exchange: MessageExchange, run: str, clock: Callable[[], float] = time.time) -> None:
        self._exchange = exchange
        self._clock = clock
        self._run: Run = Run.create_empty(node_ids.run_id(run))
        self._things: dict[int, str] = {}  # thing names of all nodes that were ever listed
        self._nodes: list[int] = []
        self._nodes_seconds = _NODES_SECONDS
        self._nodes_until = 0.0
        self._pushed: dict[str, Metadata] = {}  # of the messages whose outcome was not pulled, by id
        self._failures: dict[str, Failure] = {}  # of messages that were not sent

    def set_run(self, run: Run) -> None:
        """Set the run that ``run`` returns."""
        if not isinstance(run, Run):
            message = f"`run` must be an instance of Run, got {type(run).__name__}"
            raise TypeError(message)
        self._run = run

    @property
    def run(self) -> Run:
        """A copy of the run's details."""
        return Run(**vars(self._run))

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Return a new message; deprecated by Flower in favour of ``Message``."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of the nodes that can get messages now."""
        now = self._clock()
        if now >= self._nodes_until:
            with _ends_with_run():
                things = {node_ids.node_id(thing): thing for thing in self._exchange.devices()}
            self._things |= things
            is_same, self._nodes = self._nodes == sorted(things), sorted(things)
            self._nodes_seconds = (
                min(2 * self._nodes_seconds, _LONGEST_NODES_SECONDS) if is_same else _NODES_SECONDS
            )
            self._nodes_until = now + self._nodes_seconds
        return list(self._nodes)

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Return the nodes that can get messages now."""
        return [NodeInfo(node_id=node) for node in self.get_node_ids()]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages; return their ids, in order.

        A message to a node with an outstanding one is sent once that has an outcome. One to an unknown node
        gets an error reply.

        Raises:
            ValueError: a message has no time to live, or too long a group.
            UpdateRefused: the content of a message cannot be sent.
        """
        with _ends_with_run():
            pushed = self._store(messages)
            ids = [self._push(metadata, content) for metadata, content in pushed]
            alone = threading.current_thread() is threading.main_thread() or len(ids) > 1
            self._exchange.flush(0.0 if alone else _GATHER_SECONDS)
        return ids

    def _store(self, messages: Iterable[Message]) -> list[tuple[Metadata, StoredContent]]:
        """Put the contents into the bucket; messages with the same content object share one."""
        stored: dict[int, tuple[RecordDict, StoredContent]] = {}
        found = []
        for message in messages:
            if message.metadata.ttl <= 0:
                text = f"Invalid message: its ttl is {message.metadata.ttl}, and has to be above 0"
                raise ValueError(text)
            if len(message.metadata.group_id) > _LONGEST_GROUP:
                text = (
                    f"Invalid message: its group_id has {len(message.metadata.group_id)} characters; 128 fit"
                )
                raise ValueError(text)
            content = message.content
            if id(content) not in stored:
                stored[id(content)] = content, self._exchange.store(to_parts(content))
            found.append((message.metadata, stored[id(content)][1]))
        return found

    def _push(self, metadata: Metadata, content: StoredContent) -> str:
        thing = self._thing(metadata.dst_node_id)
        if thing is None:
            id_ = str(uuid4())
            reason = f"node {metadata.dst_node_id} is not a device of this run"
            self._failures[id_] = Failure("unknown", reason)
            FLOWER_LOGGER.warning("A message cannot be sent: %s.", reason)
        else:
            id_ = self._exchange.push(
                thing,
                content,
                type=metadata.message_type,
                group=metadata.group_id,
                ttl=metadata.ttl,
                created_at=metadata.created_at,
            )
        metadata.__dict__["_message_id"] = id_
        self._pushed[id_] = metadata
        return id_

    def _thing(self, node: int) -> str | None:
        if node not in self._things:
            self.get_node_ids()
        return self._things.get(node)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that have arrived to some messages; each is returned once.

        An id that is not known, or whose reply was returned before, gets an error reply, as in Flower.
        """
        ids = {id_ for id_ in message_ids if id_}
        found = [self._unknown(id_) for id_ in sorted(ids - self._pushed.keys())]
        unsent = [each for each in ids if each in self._failures]
        found += [self._reply(id_, self._failures.pop(id_)) for id_ in unsent]
        with _ends_with_run():
            found.extend(self._reply(id_, outcome) for id_, outcome in self._exchange.collect(ids))
        return found

    def _reply(self, id_: str, outcome: Outcome) -> Message:
        shell = Message(metadata=self._pushed.pop(id_), content=RecordDict())
        if not isinstance(outcome, Failure):
            try:
                reply = Message(from_records(outcome.records, outcome.data), reply_to=shell)
            except UpdateRefused as error:
                outcome = Failure("damaged", str(error))
        if isinstance(outcome, Failure):
            reply = Message(Error(_CODES[outcome.kind], str(outcome)), reply_to=shell)
        reply.metadata.__dict__["_message_id"] = str(uuid4())
        return reply

    def _unknown(self, id_: str) -> Message:
        metadata = Metadata(
            run_id=self._run.run_id,
            message_id="",
            src_node_id=SUPERLINK_NODE_ID,
            dst_node_id=SUPERLINK_NODE_ID,
            reply_to_message_id=id_,
            group_id="",
            created_at=self._clock(),
            ttl=0,
            message_type="system",
        )
        reason = "there is no such message, or its reply was pulled before"
        return Message(metadata=metadata, error=Error(ErrorCode.MESSAGE_UNAVAILABLE, reason))

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send messages and return the replies that arrive within ``timeout`` seconds; None: all of them.

        As in Flower, messages without a reply by then remain outstanding until their time to live ends.
        """
        pushed = list(self.push_messages(messages))
        del messages
        ids = set(pushed)
        end = None if timeout is None else self._clock() + timeout
        replies: list[Message] = []
        while ids:
            found = self.pull_messages(ids)
            replies += found
            ids -= {reply.metadata.reply_to_message_id for reply in found}
            left = None if end is None else end - self._clock()
            if not ids or (left is not None and left <= 0):
                break
            with _ends_with_run():
                self._exchange.wait() if left is None else self._exchange.wait(left)
        order = {id_: place for place, id_ in enumerate(pushed)}  # so that sums of them are always the same
        return sorted(replies, key=lambda reply: order[reply.metadata.reply_to_message_id])


@contextmanager
def _ends_with_run() -> Iterator[None]:
    """Raise Flower's RunNotRunningException, which no app catches by accident, if the run has ended."""
    try:
        yield
    except (ExchangeFailed, ExchangeClosed) as error:
        raise RunNotRunningException from error
