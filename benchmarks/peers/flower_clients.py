"""Flower's client app for the clients of mnist_clients.py; runs in Ray's actors, in Flower's environment.

A separate module: Ray sends the client app with each message. A function of ``__main__`` is sent by value,
so that each message would come with an empty cache and each client would read all data again; a function of
a module is sent by name.
"""

import os
from functools import cache
from pathlib import Path

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from benchmarks.peers.mnist_clients import IMAGES, make_model, read_clients, train

FOLDER_VARIABLE = "FEDGRASS_MNIST"  # environment variable: Ray's actors inherit it
client_app = ClientApp()


@cache
def _data() -> tuple[torch.Tensor, torch.Tensor]:
    torch.set_num_threads(1)
    return read_clients(Path(os.environ[FOLDER_VARIABLE]))


@cache
def _model() -> torch.nn.Module:
    return make_model()


@client_app.train()  # type: ignore[untyped-decorator]
def train_client(message: Message, context: Context) -> Message:
    """Train one client."""
    images, labels = _data()
    client, model = int(context.node_config["partition-id"]), _model()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    loss = train(model, images[client], labels[client])
    content = RecordDict(
        {
            "arrays": ArrayRecord(model.state_dict()),
            "metrics": MetricRecord({"train_loss": loss, "num-examples": IMAGES}),
        }
    )
    return Message(content=content, reply_to=message)
