"""Flower apps in a folder: files written by a test."""

from collections.abc import Mapping
from pathlib import Path

PROJECT = """\
[project]
name = "Mean of numbers"
version = "1.2.0"
dependencies = ["flwr[simulation]>=1.40.0", "numpy>=2"]

[tool.flwr.app]
publisher = "tests"

[tool.flwr.app.components]
serverapp = "mean.server_app:app"
clientapp = "mean.client_app:app"

[tool.flwr.app.config]
num-server-rounds = 3
optimizer.lr = 0.5
"""
CLIENT = """\
import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()

@app.train()
def train(message, context):
    lr = context.run_config["optimizer.lr"]
    model = {name: array.numpy() for name, array in message.content["arrays"].items()}
    arrays = {name: Array(np.asarray(array + lr, array.dtype)) for name, array in model.items()}
    metrics = MetricRecord({"num-examples": 10 + context.node_config["partition-id"], "train_loss": 0.25})
    return Message(RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics}), reply_to=message)

@app.evaluate()
def evaluate(message, context):
    metrics = MetricRecord({"num-examples": 5, "loss": float(message.content["arrays"]["b"].numpy().sum())})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)
"""
SERVER = """\
import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()

@app.main()
def main(grid, context):
    arrays = ArrayRecord({"b": Array(np.ones(3, np.float32)), "a": Array(np.zeros((), np.int64))})
    FedAvg(min_available_nodes=20).start(
        grid=grid, initial_arrays=arrays, train_config=ConfigRecord({"momentum": 0.9}))
"""


def write_app(
    folder: Path,
    files: Mapping[str, str] | None = None,
    *,
    project: str = PROJECT,
    client: str = CLIENT,
    server: str = SERVER,
) -> Path:
    """Write an app to a folder, with further files by their names; return the folder."""
    own = {"pyproject.toml": project, "mean/__init__.py": "", "mean/client_app.py": client}
    for name, text in {**own, "mean/server_app.py": server, **(files or {})}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder
