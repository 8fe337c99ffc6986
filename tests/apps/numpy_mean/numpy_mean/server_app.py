"""numpy_mean: a Flower ServerApp."""

import numpy as np
from flwr.app import Array, ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from numpy_mean.task import initial_arrays

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Learn the mean with FedAvg, and save the final model."""
    arrays = ArrayRecord({name: Array(array) for name, array in initial_arrays().items()})
    result = FedAvg().start(
        grid=grid, initial_arrays=arrays, num_rounds=context.run_config["num-server-rounds"]
    )
    np.savez("final_model.npz", **{name: array.numpy() for name, array in result.arrays.items()})
