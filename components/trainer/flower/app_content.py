"""What goes into a call of an app and comes out of it, in fedgrass's own types."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from components.trainer.flower.app_configuration import Config
from fedgrass.federation.task_messages.message_content import Record

GET_PARAMETERS = "get_parameters"  # a type of message to apps with a client_fn


class Content(NamedTuple):
    """Records, and the serialised data of their arrays in their order."""

    records: Sequence[Record] = ()
    data: Sequence[bytes] = ()


@dataclass(frozen=True)
class Surroundings:
    """The parts of Flower's ``Context`` that stay the same during a call.

    Attributes:
        run: id of the run.
        node: id of this device.
        message: id of the message.
        node_config: of this device.
        run_config: the app's configuration in this run.
    """

    run: int
    node: int
    message: str = ""
    node_config: Config = field(default_factory=dict)
    run_config: Config = field(default_factory=dict)


class LegacyReply(NamedTuple):
    """The reply of an app with a ``client_fn``.

    Attributes:
        tensors: the serialised arrays of its model, in their order; empty if it sends none.
        examples: number of examples.
        metrics: by name; of an evaluation with its ``loss``.
        problem: why it is a failure, in the app's words; empty: it is none.
        is_missing: the failure is that the client does not implement what was asked of it.
    """

    tensors: Sequence[bytes] = ()
    examples: int = 0
    metrics: Mapping[str, object] = {}
    problem: str = ""
    is_missing: bool = False
