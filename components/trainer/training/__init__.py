"""Training of PyTorch modules: a user's task makes a model and two data sets, ``TorchTask`` does the rest."""

from components.trainer.training.arrays import load_arrays, state_arrays
from components.trainer.training.batches import Samples
from components.trainer.training.fitting import Scheduler
from components.trainer.training.sgd import Optimizer, TrainingSettings, parse_training_settings
from components.trainer.training.torch_task import TorchTask

__all__ = [
    "Optimizer",
    "Samples",
    "Scheduler",
    "TorchTask",
    "TrainingSettings",
    "load_arrays",
    "parse_training_settings",
    "state_arrays",
]
