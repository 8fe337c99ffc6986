"""query_histogram: a Flower ClientApp that answers queries about its values, and trains nothing."""

import numpy as np
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from query_histogram.task import load_data

app = ClientApp()


@app.query()
def extremes(msg: Message, context: Context) -> Message:
    """Return the smallest and the largest value."""
    values = load_data(context.node_config["partition-id"])
    record = MetricRecord({"min": float(values.min()), "max": float(values.max()), "count": len(values)})
    return Message(content=RecordDict({"extremes": record}), reply_to=msg)


@app.query("histogram")
def histogram(msg: Message, context: Context) -> Message:
    """Return how many values are in each bin."""
    values = load_data(context.node_config["partition-id"])
    config = msg.content["config"]
    counts, _ = np.histogram(values, bins=config["bins"], range=(config["min"], config["max"]))
    record = MetricRecord({"counts": counts.tolist(), "sum": float(values.sum())})
    return Message(content=RecordDict({"histogram": record}), reply_to=msg)
