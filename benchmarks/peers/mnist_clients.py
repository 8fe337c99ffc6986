"""Clients with a share of MNIST each, as a user of PyTorch writes them; torch and numpy only.

    python -m benchmarks.peers.mnist_clients FOLDER --rounds N

plays federated averaging of the convolutional network in a plain loop, and prints the seconds of each round
as JSON. benchmarks/peers/flower_simulation.py uses the same functions in Flower's environment.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

CLIENTS, COHORT, IMAGES = 1000, 100, 60
_BATCH, _RATE, _MOMENTUM = 10, 0.01, 0.5


def make_model() -> nn.Module:
    """Return the network of components/trainer/tasks/mnist.py: 21,840 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 10, kernel_size=5),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(10, 20, kernel_size=5),
        nn.Dropout2d(),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(320, 50),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(50, 10),
        nn.LogSoftmax(dim=1),
    )


def read_clients(folder: Path) -> tuple[Tensor, Tensor]:
    """Return images, float32 of shape (1000, 60, 1, 28, 28), and labels, int64 of shape (1000, 60).

    Args:
        folder: with the uncompressed files.
    """
    images = np.frombuffer((folder / "train-images-idx3-ubyte").read_bytes(), np.uint8, offset=16)
    labels = np.frombuffer((folder / "train-labels-idx1-ubyte").read_bytes(), np.uint8, offset=8)
    order = np.random.default_rng(0).permutation(len(labels))
    pixels = (images.reshape(-1, 1, 28, 28)[order].astype(np.float32) / 255 - 0.1307) / 0.3081
    shape = (CLIENTS, IMAGES)
    return (
        torch.from_numpy(pixels.astype(np.float32)).reshape(*shape, 1, 28, 28),
        torch.from_numpy(labels[order].astype(np.int64)).reshape(shape),
    )


def train(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Train for one epoch; return the mean loss."""
    optimizer = torch.optim.SGD(model.parameters(), lr=_RATE, momentum=_MOMENTUM)
    model.train()
    order, total = torch.randperm(len(labels)), 0.0
    for start in range(0, len(labels), _BATCH):
        batch = order[start : start + _BATCH]
        optimizer.zero_grad()
        loss = functional.nll_loss(model(images[batch]), labels[batch])
        loss.backward()  # type: ignore[no-untyped-call] # torch does not type it
        optimizer.step()
        total += loss.item() * len(batch)
    return total / len(labels)


def main() -> None:
    """Play the rounds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)  # faster than two for such small batches
    images, labels = read_clients(options.folder)
    model, rng = make_model(), np.random.default_rng(1)
    whole = {name: value.clone() for name, value in model.state_dict().items()}
    seconds = []
    for _ in range(options.rounds):
        began = time.perf_counter()
        sums = {name: torch.zeros_like(value) for name, value in whole.items()}
        for client in rng.choice(CLIENTS, COHORT, replace=False):
            model.load_state_dict(whole)
            train(model, images[client], labels[client])
            for name, value in model.state_dict().items():
                sums[name] += value / COHORT
        whole = sums
        seconds.append(time.perf_counter() - began)
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
