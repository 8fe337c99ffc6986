"""Training of PyTorch modules: a user's task supplies a model and two data sets, ``TorchTask`` does the rest.

Read torch_task (the interface) and local_training (one round) first. They use, in this order: hooks (what a
task may override), sgd (settings and optimizer), batches and structures (examples of any structure), fitting
(one epoch), losses (the loss and the metrics), precision (CPU or GPU, bfloat16), arrays (tensors to and from
numpy), torch_sharing (roles of arrays), torch_predictor (predictions), torch_features (data for
statistics) and source_location (file and line in messages).
"""

from components.trainer.training.arrays import load_arrays, state_arrays
from components.trainer.training.batches import Samples
from components.trainer.training.hooks import Scheduler
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
