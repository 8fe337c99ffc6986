"""numpy_mean: the data of a partition and its training."""

import numpy as np

FEATURES = 6


def load_data(partition_id: int, num_partitions: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of a partition for training and for evaluation, float64 arrays of shape (n, 6).

    Partitions differ in size and in their mean.
    """
    rng = np.random.default_rng([7, partition_id, num_partitions])
    rows = rng.normal(partition_id, 1.0, (60 + 15 * partition_id, FEATURES)) + np.arange(FEATURES)
    return rows[10:], rows[:10]


def initial_arrays() -> dict[str, np.ndarray]:
    """Return the model before the first round."""
    return {"mean": np.zeros(FEATURES, np.float32), "scale": np.ones(1, np.float32)}


def train(
    arrays: dict[str, np.ndarray],
    velocity: np.ndarray,
    rows: np.ndarray,
    steps: int,
    learning_rate: float,
    momentum: float,
    rng: np.random.Generator,
) -> tuple[dict[str, np.ndarray], np.ndarray, float]:
    """Take gradient steps with momentum; return the model, the new velocity, and the mean loss."""
    mean, losses = arrays["mean"].astype(np.float64), []
    for _ in range(steps):
        batch = rows[rng.choice(len(rows), size=16, replace=False)]
        losses.append(loss(mean, batch))
        velocity = momentum * velocity + (batch.mean(axis=0) - mean)
        mean = mean + learning_rate * velocity
    scale = np.asarray([rows.std()], np.float32)
    return {"mean": mean.astype(np.float32), "scale": scale}, velocity, float(np.mean(losses))


def loss(mean: np.ndarray, rows: np.ndarray) -> float:
    """Return the mean squared distance of rows to a mean."""
    return float(np.mean((rows - mean) ** 2))
