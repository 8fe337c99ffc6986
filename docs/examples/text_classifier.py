"""A task for text: sentences of different lengths, put into batches by ``collate``.

    fedgrass task check text_classifier:TextClassifier --path docs/examples --option file=messages.tsv

The file has a line per example: the class, a tab, the text. Words are hashed into a fixed table, so that all
devices have the same vocabulary and none of them has to send its words.
"""

import zlib
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from components.trainer.training import TorchTask, TrainingSettings

WORDS = 2048  # of the table; 0 stands for padding
Example = tuple[Tensor, int]


class TextClassifier(TorchTask):
    """Tells the class of a text; ``classes`` are their names, with commas between them."""

    def __init__(self, file: str, classes: str = "ok,alarm") -> None:
        names = classes.split(",")
        lines = [line.partition("\t") for line in Path(file).read_text(encoding="utf-8").splitlines()]
        examples = [(words_of(text), names.index(label)) for label, _, text in lines]
        super().__init__(
            lambda: Classifier(len(names)),
            training=[example for place, example in enumerate(examples) if place % 10],
            held_out=examples[::10],
            collate=pad,
            defaults=TrainingSettings(epochs=3, learning_rate=0.01),
        )

    def make_optimizer(
        self, parameters: list[nn.Parameter], settings: TrainingSettings
    ) -> torch.optim.Optimizer:
        """Return Adam, which suits embeddings: few words are in each batch."""
        return torch.optim.Adam(parameters, lr=settings.learning_rate)


def words_of(text: str) -> Tensor:
    """Return the places of a text's words in the table, int64 of shape (words,)."""
    places = [1 + zlib.crc32(word.lower().encode()) % (WORDS - 1) for word in text.split()]
    return torch.tensor(places or [0])


def pad(examples: list[Example]) -> dict[str, Tensor]:
    """Return one batch: texts padded to the longest, where they have words, and the classes."""
    texts, labels = zip(*examples, strict=True)
    words = pad_sequence(list(texts), batch_first=True)
    return {"words": words, "mask": words > 0, "labels": torch.tensor(labels)}


class Classifier(nn.Module):
    """The mean of the words' embeddings, and a linear layer."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 32, padding_idx=0)
        self.layer = nn.Linear(32, classes)

    def forward(self, words: Tensor, mask: Tensor) -> Tensor:
        """Return logits of shape (batch, classes) for words of shape (batch, longest)."""
        total = (self.embedding(words) * mask.unsqueeze(2)).sum(dim=1)
        logits: Tensor = self.layer(total / mask.sum(dim=1, keepdim=True).clamp(min=1))
        return logits
