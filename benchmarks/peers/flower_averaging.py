"""Averages updates with Flower, in Flower's own environment: ``python flower_averaging.py FOLDER CLIENTS``.

Flower's ``FedAvg.aggregate_train`` gets its replies in memory, as it requires, and decodes and averages them;
creating the replies is not timed. Prints one JSON object: the seconds, and the peak of the resident set minus
the resident set after the imports. This environment does not have fedgrass: it must not be imported.
"""

import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"  # read when Flower is imported

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.task_identity import TaskIdentity

_MEGABYTE = 1_000_000


def arrays_of(file: Path) -> ArrayRecord:
    """Return the arrays of a safetensors file of float32: a length, a header in JSON, the values."""
    data = file.read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    header: dict[str, Any] = json.loads(data[8:begin])
    header.pop("__metadata__", None)
    found = {}
    for name, entry in header.items():
        first, end = entry["data_offsets"]
        values = np.frombuffer(data, np.float32, count=(end - first) // 4, offset=begin + first)
        found[name] = Array(values.reshape(entry["shape"]))
    return ArrayRecord(found)


def resident_kilobytes(line: str) -> int:
    """Return the value of a line of /proc/self/status: ``VmRSS:`` now, ``VmHWM:`` at most."""
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(one.split()[1]) for one in status if one.startswith(line))


def main() -> None:
    """Run the command line."""
    folder, clients = Path(sys.argv[1]), int(sys.argv[2])
    logging.getLogger("flwr").setLevel(logging.ERROR)
    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
    before = resident_kilobytes("VmRSS:")
    replies = []
    for number, file in enumerate(sorted(folder.glob("updates__*"))[:clients]):
        metrics = MetricRecord({"num-examples": 100 + number, "train_loss": 1.0})
        content = RecordDict({"arrays": arrays_of(file), "metrics": metrics})
        replies.append(Message(content=content, dst_node_id=number + 1, message_type=MessageType.TRAIN))
    strategy = FedAvg()
    began = time.perf_counter()
    arrays, _ = strategy.aggregate_train(1, replies)
    seconds = time.perf_counter() - began
    if arrays is None:
        sys.exit("Flower aggregated nothing")
    peak = (resident_kilobytes("VmHWM:") - before) * 1024 / _MEGABYTE
    print(json.dumps({"seconds": seconds, "peak_mb": peak}))


if __name__ == "__main__":
    main()
