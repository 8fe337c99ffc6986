"""torch_batchnorm: a Flower ClientApp."""

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from torch_batchnorm.task import Net, load_data
from torch_batchnorm.task import test as test_fn
from torch_batchnorm.task import train as train_fn

app = ClientApp()


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Train the model on the local data."""
    model = Net()
    model.load_state_dict(msg.content["arrays"].to_torch_state_dict())
    partition_id, num_partitions = context.node_config["partition-id"], context.node_config["num-partitions"]
    seed = 1000 * msg.content["config"]["server-round"] + partition_id
    torch.manual_seed(seed)
    loader, _ = load_data(partition_id, num_partitions, context.run_config["batch-size"], seed)

    train_loss = train_fn(model, loader, context.run_config["local-epochs"], msg.content["config"]["lr"])

    metrics = {"train_loss": train_loss, "num-examples": len(loader.dataset)}
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": MetricRecord(metrics)})
    return Message(content=content, reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context) -> Message:
    """Evaluate the model on the local data."""
    model = Net()
    model.load_state_dict(msg.content["arrays"].to_torch_state_dict())
    partition_id, num_partitions = context.node_config["partition-id"], context.node_config["num-partitions"]
    _, loader = load_data(partition_id, num_partitions, context.run_config["batch-size"], 0)

    eval_loss, eval_acc = test_fn(model, loader)

    metrics = {"eval_loss": eval_loss, "eval_acc": eval_acc, "num-examples": len(loader.dataset)}
    return Message(content=RecordDict({"metrics": MetricRecord(metrics)}), reply_to=msg)
