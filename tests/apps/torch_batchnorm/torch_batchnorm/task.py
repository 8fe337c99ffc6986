"""torch_batchnorm: the network, the data of a partition, training and evaluation."""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

TRAINED, HELD_OUT = 48, 24  # examples of partition 0; partition p has 4 p more for training


class Net(nn.Module):
    """A small convolutional network with batch normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.linear = nn.Linear(4 * 4 * 4, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits of images of shape (n, 1, 8, 8), of shape (n, 10)."""
        hidden = nn.functional.max_pool2d(torch.relu(self.norm(self.conv(images))), 2)
        return self.linear(hidden.flatten(1))


def load_data(
    partition_id: int, num_partitions: int, batch_size: int, seed: int
) -> tuple[DataLoader, DataLoader]:
    """Return the batches of a partition for training and for evaluation.

    Every partition has the same number of full batches, of different numbers of examples.
    """
    digits = load_digits()
    order = np.random.default_rng(3).permutation(len(digits.target))[partition_id::num_partitions]
    images = torch.tensor(digits.images[order] / 16, dtype=torch.float32).unsqueeze(1)
    labels = torch.tensor(digits.target[order])
    trained = TRAINED + 4 * (partition_id % 4)
    train = TensorDataset(images[HELD_OUT : HELD_OUT + trained], labels[HELD_OUT : HELD_OUT + trained])
    test = TensorDataset(images[:HELD_OUT], labels[:HELD_OUT])
    generator = torch.Generator().manual_seed(seed)
    return (
        DataLoader(train, batch_size=batch_size, shuffle=True, drop_last=True, generator=generator),
        DataLoader(test, batch_size=batch_size),
    )


def train(net: nn.Module, loader: DataLoader, epochs: int, lr: float) -> float:
    """Train the network; return the mean loss of its batches."""
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    net.train()
    total, batches = 0.0, 0
    for _ in range(epochs):
        for images, labels in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(images), labels)
            loss.backward()
            optimizer.step()
            total, batches = total + loss.item(), batches + 1
    return total / batches


def test(net: nn.Module, loader: DataLoader) -> tuple[float, float]:
    """Return the mean loss and the accuracy of the network."""
    net.eval()
    total, correct, examples = 0.0, 0, 0
    with torch.no_grad():
        for images, labels in loader:
            logits = net(images)
            total += nn.functional.cross_entropy(logits, labels, reduction="sum").item()
            correct += (logits.argmax(1) == labels).sum().item()
            examples += len(labels)
    return total / examples, correct / examples
