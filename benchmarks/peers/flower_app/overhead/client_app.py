"""The ClientApp."""

from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from overhead.task import EXAMPLES, Arrays, loss
from overhead.task import train as train_model

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the model on the device's partition."""
    model = _model(message)
    trained = train_model(model, int(context.node_config["partition-id"]))
    arrays = ArrayRecord({name: Array(array) for name, array in trained.items()})
    metrics = MetricRecord({"num-examples": EXAMPLES, "loss": loss(model)})
    return Message(content=RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:  # noqa: ARG001 - Flower's signature
    """Evaluate the model."""
    metrics = MetricRecord({"num-examples": EXAMPLES, "loss": loss(_model(message))})
    return Message(content=RecordDict({"metrics": metrics}), reply_to=message)


def _model(message: Message) -> Arrays:
    return {name: array.numpy() for name, array in message.content["arrays"].items()}
