"""A data set in two tensors, of which this device has a share."""

from collections.abc import Callable, Sequence
from functools import cache

from torch import Tensor, nn
from torch.utils.data import TensorDataset

from components.trainer.training import TorchTask, TrainingSettings


class DealtTask(TorchTask):
    """Trains on a share of a data set, and can judge the global model on what no device trains on.

    Args:
        make_model: as of ``TorchTask``.
        examples: inputs and targets of all devices.
        places: which of them are this device's, in a random order.
        local_held_out: the part of the share, 0 to 1, that the device evaluates on; at least one example.
        read_test: returns what no device trains on; called once, when it is wanted.
        defaults: as of ``TorchTask``.
    """

    def __init__(  # noqa: PLR0913 - what a task is made of
        self,
        make_model: Callable[[], nn.Module],
        examples: tuple[Tensor, Tensor],
        places: Sequence[int],
        *,
        local_held_out: float,
        read_test: Callable[[], tuple[Tensor, Tensor]],
        defaults: TrainingSettings,
    ) -> None:
        cut = max(1, round(len(places) * local_held_out))
        training, held_out = (
            TensorDataset(*(part[list(chosen)] for part in examples))
            for chosen in (places[cut:], places[:cut])
        )
        test = cache(lambda: TensorDataset(*read_test()))
        super().__init__(make_model, training, held_out, defaults=defaults, test=test)


class Pixels(nn.Module):
    """Turns bytes 0 to 255 into floats (byte/255 - mean) / deviation; the first layer of a model of images.

    So a data set takes a byte per pixel of a small device's memory, and the published model takes images as
    they are.
    """

    def __init__(self, mean: float, deviation: float) -> None:
        super().__init__()
        self._mean = mean
        self._deviation = deviation

    def forward(self, images: Tensor) -> Tensor:
        """Return floats of the same shape."""
        return (images.float() / 255 - self._mean) / self._deviation
