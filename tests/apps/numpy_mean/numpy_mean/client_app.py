"""numpy_mean: a Flower ClientApp. The momentum of a device stays in its state from round to round."""

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from numpy_mean.task import FEATURES, load_data, loss
from numpy_mean.task import train as train_fn

app = ClientApp()


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Train the model on the local data."""
    partition_id, num_partitions = context.node_config["partition-id"], context.node_config["num-partitions"]
    rows, _ = load_data(partition_id, num_partitions)
    server_round = msg.content["config"]["server-round"]
    arrays = {name: array.numpy() for name, array in msg.content["arrays"].items()}
    kept = context.state.get("momentum")
    velocity = kept["velocity"].numpy() if kept else np.zeros(FEATURES)

    arrays, velocity, train_loss = train_fn(
        arrays,
        velocity,
        rows,
        context.run_config["local-steps"],
        context.run_config["learning-rate"],
        context.run_config["momentum"],
        np.random.default_rng([server_round, partition_id]),
    )

    context.state["momentum"] = ArrayRecord({"velocity": Array(velocity)})
    metrics = MetricRecord({"train_loss": train_loss, "num-examples": len(rows)})
    record = ArrayRecord({name: Array(array) for name, array in arrays.items()})
    return Message(content=RecordDict({"arrays": record, "metrics": metrics}), reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context) -> Message:
    """Evaluate the model on the local data."""
    _, rows = load_data(context.node_config["partition-id"], context.node_config["num-partitions"])
    metrics = {"eval_loss": loss(msg.content["arrays"]["mean"].numpy(), rows), "num-examples": len(rows)}
    return Message(content=RecordDict({"metrics": MetricRecord(metrics)}), reply_to=msg)
