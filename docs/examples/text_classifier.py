"""A task for text: sentences of different lengths, collated by padding.

    fedgrass task check text_classifier:TextClassifier --path docs/examples --option file=messages.tsv

The file has one line per example: the class, a tab, the text. Words are hashed to indices of a fixed table,
so all devices have the same vocabulary without exchanging their words.
"""

import zlib
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from components.trainer.training import TorchTask, TrainingSettings

WORDS = 2048  # size of the table; index 0 is padding
Example = tuple[Tensor, int]


class TextClassifier(TorchTask):
    """Classifies texts.

    Args:
        file: path of the file.
        classes: names of the classes, separated by commas.
    """

    def __init__(self, file: str, classes: str = "ok,alarm") -> None:
        names = classes.split(",")
        lines = [line.partition("\t") for line in Path(file).read_text(encoding="utf-8").splitlines()]
        examples = [(words_of(text), names.index(label)) for label, _, text in lines]
        super().__init__(
            lambda: Classifier(len(names)),
            training=[example for index, example in enumerate(examples) if index % 10],
            held_out=examples[::10],
            collate=pad,
            defaults=TrainingSettings(epochs=3, learning_rate=0.01),
        )

    def make_optimizer(
        self, parameters: list[nn.Parameter], settings: TrainingSettings
    ) -> torch.optim.Optimizer:
        """Return Adam, which suits embeddings: each batch contains only few of the words."""
        return torch.optim.Adam(parameters, lr=settings.learning_rate)


def words_of(text: str) -> Tensor:
    """Return the table indices of a text's words, int64 of shape (words,)."""
    indices = [1 + zlib.crc32(word.lower().encode()) % (WORDS - 1) for word in text.split()]
    return torch.tensor(indices or [0])


def pad(examples: list[Example]) -> dict[str, Tensor]:
    """Return a batch of ``words``, int64, and ``mask``, bool, of shape (batch, longest), and ``labels``."""
    texts, labels = zip(*examples, strict=True)
    words = pad_sequence(list(texts), batch_first=True)
    return {"words": words, "mask": words > 0, "labels": torch.tensor(labels)}


class Classifier(nn.Module):
    """A linear layer on the mean of the words' embeddings."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 32, padding_idx=0)
        self.layer = nn.Linear(32, classes)

    def forward(self, words: Tensor, mask: Tensor) -> Tensor:
        """Return logits of shape (batch, classes) for words of shape (batch, longest)."""
        total = (self.embedding(words) * mask.unsqueeze(2)).sum(dim=1)
        logits: Tensor = self.layer(total / mask.sum(dim=1, keepdim=True).clamp(min=1))
        return logits
