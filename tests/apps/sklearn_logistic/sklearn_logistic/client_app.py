"""sklearn_logistic: a Flower ClientApp of the former API, with a NumPyClient."""

import warnings
from typing import Any

import numpy as np
from flwr.client import Client, ClientApp, NumPyClient
from flwr.common import Context
from sklearn.metrics import log_loss

from sklearn_logistic.task import get_params, load_data, new_model, set_params


class FlowerClient(NumPyClient):
    """A client with the data of one partition."""

    def __init__(self, model: Any, data: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]) -> None:
        self.model = model
        self.x_train, self.y_train, self.x_test, self.y_test = data

    def get_parameters(self, config: dict[str, Any]) -> list[np.ndarray]:
        """Return the parameters before the first round."""
        return get_params(self.model)

    def fit(
        self, parameters: list[np.ndarray], config: dict[str, Any]
    ) -> tuple[list[np.ndarray], int, dict[str, Any]]:
        """Continue from the parameters for a few iterations."""
        set_params(self.model, parameters)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a few iterations do not converge
            self.model.fit(self.x_train, self.y_train)
        loss = log_loss(self.y_train, self.model.predict_proba(self.x_train))
        return get_params(self.model), len(self.x_train), {"train_loss": loss}

    def evaluate(
        self,
        parameters: list[np.ndarray],
        config: dict[str, Any],
    ) -> tuple[float, int, dict[str, Any]]:
        """Return the loss on the local data, the number of examples, and the accuracy."""
        set_params(self.model, parameters)
        loss = log_loss(self.y_test, self.model.predict_proba(self.x_test))
        return loss, len(self.x_test), {"accuracy": self.model.score(self.x_test, self.y_test)}


def client_fn(context: Context) -> Client:
    """Return the client of a node."""
    data = load_data(context.node_config["partition-id"], context.node_config["num-partitions"])
    model = new_model(context.run_config["penalty"], context.run_config["local-iterations"])
    return FlowerClient(model, data).to_client()


app = ClientApp(client_fn=client_fn)
