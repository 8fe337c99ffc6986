"""query_histogram: a Flower ServerApp with its own main loop, without a strategy."""

import json
import time
from collections.abc import Iterable
from logging import INFO, WARNING
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid, ServerApp

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Ask all nodes for their extremes, then for histograms between these; save their sum."""
    nodes = wait_for_nodes(grid, context.run_config["min-nodes"])
    timeout, bins = context.run_config["timeout-seconds"], context.run_config["bins"]

    replies = ask(grid, nodes, MessageType.QUERY, "extremes", RecordDict(), timeout)
    found = [reply.content["extremes"] for reply in replies]
    low, high = min(record["min"] for record in found), max(record["max"] for record in found)

    config = RecordDict({"config": ConfigRecord({"bins": bins, "min": low, "max": high})})
    replies = ask(grid, nodes, f"{MessageType.QUERY}.histogram", "histogram", config, timeout)
    counts = [reply.content["histogram"]["counts"] for reply in replies]
    total = {
        "nodes": len(replies),
        "min": low,
        "max": high,
        "counts": [sum(bin_) for bin_ in zip(*counts, strict=True)],
    }
    log(INFO, "histogram: %s", total)
    Path("histogram.json").write_text(json.dumps(total))


def wait_for_nodes(grid: Grid, number: int) -> list[int]:
    """Return the ids of all nodes, once there are enough."""
    while len(nodes := list(grid.get_node_ids())) < number:
        log(INFO, "waiting for %s nodes, there are %s", number, len(nodes))
        time.sleep(1)
    return nodes


def ask(
    grid: Grid, nodes: Iterable[int], kind: str, group: str, content: RecordDict, timeout: float
) -> list[Message]:
    """Send the same content to all nodes; return the replies without an error."""
    messages = [
        Message(content=content, dst_node_id=node, message_type=kind, group_id=group) for node in nodes
    ]
    replies = list(grid.send_and_receive(messages, timeout=timeout))
    for reply in replies:
        if reply.has_error():
            log(WARNING, "no reply from node %s: %s", reply.metadata.src_node_id, reply.error.reason)
    return [reply for reply in replies if not reply.has_error()]
