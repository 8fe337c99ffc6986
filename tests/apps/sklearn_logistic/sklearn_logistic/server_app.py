"""sklearn_logistic: a Flower ServerApp of the former API. It asks a client for the initial parameters."""

from typing import Any

import numpy as np
from flwr.common import Context
from flwr.server import ServerApp, ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg
from sklearn.metrics import log_loss

from sklearn_logistic.task import load_data, new_model, set_params


def weighted_average(metrics: list[tuple[int, dict[str, Any]]]) -> dict[str, Any]:
    """Return the accuracy over all clients' examples."""
    examples = sum(number for number, _ in metrics)
    return {"accuracy": sum(number * each["accuracy"] for number, each in metrics) / examples}


def server_fn(context: Context) -> ServerAppComponents:
    """Return the strategy and the number of rounds."""
    num_rounds = context.run_config["num-server-rounds"]
    model = new_model(context.run_config["penalty"], 1)
    _, _, features, labels = load_data(0, 1)

    def evaluate(
        server_round: int, parameters: list[np.ndarray], _: dict[str, Any]
    ) -> tuple[float, dict[str, Any]]:
        set_params(model, parameters)
        if server_round == num_rounds:
            np.savez("final_model.npz", *parameters)
        return log_loss(labels, model.predict_proba(features)), {}

    strategy = FedAvg(evaluate_fn=evaluate, evaluate_metrics_aggregation_fn=weighted_average)
    return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=num_rounds))


app = ServerApp(server_fn=server_fn)
