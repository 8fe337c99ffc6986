"""The task that answers the messages of the campaign's ServerApps: noise, with a nonce in each reply."""

import io
import time
from secrets import randbits

import msgspec
import numpy as np

from components.trainer.tasks.noise import Noise
from components.trainer.tasks.task import Answer, TaskMessage
from fedgrass.federation.task_messages.message_content import Record

NONCE_BITS = 52


class AnsweringNoise(Noise):
    """Adds different noise to the arrays of each message.

    Args:
        device: see ``Noise``.
        examples: the number of examples of each reply.
        linger: seconds by which a reply takes longer.
    """

    def __init__(self, device: str = "", examples: int | str = 100, linger: float = 0.0) -> None:
        super().__init__(0.01, device, examples)
        self._linger = linger

    def answer(self, message: TaskMessage) -> Answer:
        """Return the arrays with noise, a nonce, and the strategy's round in which the message was sent."""
        time.sleep(self._linger)
        random, data = np.random.default_rng(), iter(message.data)
        records, answered = list[Record](), list[bytes]()
        step = 0
        for record in message.records:
            if record.kind == "config":
                step = int(record.values.get("server-round", 0))
            if record.kind != "arrays":
                continue
            entries = []
            for entry in record.arrays:
                array = np.load(io.BytesIO(next(data)), allow_pickle=False)
                noisy, file = (array + random.standard_normal(array.shape)).astype(array.dtype), io.BytesIO()
                np.save(file, noisy, allow_pickle=False)
                answered.append(file.getvalue())
                entries.append(msgspec.structs.replace(entry, bytes=len(answered[-1])))
            records.append(msgspec.structs.replace(record, arrays=tuple(entries), file=None))
        values = {"num-examples": self.examples(), "nonce": randbits(NONCE_BITS), "step": step}
        records.append(Record(name="metrics", kind="metrics", values=values))
        return Answer(records, answered, examples=self.examples(), metrics={"step": step})
