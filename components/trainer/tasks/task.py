"""What a task is: a model, its data and its training, told in named numpy arrays."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from fedgrass.federation.errors import FedgrassError
from fedgrass.federation.weights import Arrays

Settings = Mapping[str, bool | int | float | str]
Report = Callable[[float], None]  # takes the part that is done, 0 to 1
Stop = Callable[[], bool]
Predict = Callable[[Sequence[object]], list[object]]  # takes inputs, returns an output for each


class InputRefused(FedgrassError):
    """An application's input cannot be given to the model; the text says which one, and what it takes."""


@dataclass(frozen=True)
class Evaluation:
    """How good a model is: means over ``examples`` examples, such as ``loss`` and ``accuracy``."""

    examples: int
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class GradientSteps:
    """Plain steps of gradient descent: so many, each by ``learning_rate`` times the gradient.

    ``arrays`` are the model's arrays that gradients move; None is all arrays of floats but those that their
    names tell to be statistics, such as a running mean.
    """

    count: int
    learning_rate: float
    arrays: frozenset[str] | None = None


@dataclass(frozen=True)
class Fit:
    """A trained model, the number of examples (not batches) that it saw, and what was measured meanwhile.

    ``partial`` says that the training was stopped, and that ``examples`` are those really seen by then.
    ``steps`` says how it was trained; only ``fit_corrected`` has to. ``trained`` are the names of the arrays
    that gradients move: server optimizers step these, and average all others, such as running means. None: it
    is guessed from the names.
    """

    weights: Arrays
    examples: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    partial: bool = False
    steps: GradientSteps | None = None
    trained: frozenset[str] | None = None


class Task(Protocol):
    """A model, its data and its training. Made once and used for many rounds, in the worker process."""

    def __init__(self, **options: bool | float | str) -> None:
        """Make the task with its options from the component's configuration."""

    def initial_weights(self, seed: int) -> Arrays:
        """Return the weights with which a run starts; the same for the same seed."""

    def evaluate(self, weights: Arrays) -> Evaluation:
        """Measure a model on local data that training never sees."""

    def fit(self, weights: Arrays, settings: Settings, report: Report, stop: Stop) -> Fit:
        """Train from ``weights``, which must not be written to.

        ``settings`` are the run's; call ``report`` now and then. Once ``stop`` says so, return soon
        what was reached, as partial, or raise.
        """

    def examples(self) -> int:
        """Return the number of local examples for training."""


class PredictingTask(Task, Protocol):
    """A task whose model can be served too: what com.fedgrass.Predictor asks for."""

    def predictor(self, weights: Arrays) -> Predict:
        """Return a function that answers inputs, as JSON spells them, with this model's outputs.

        It is called on another thread than the task, and goes on with these weights whatever the task does
        next. It raises InputRefused for what the model cannot take.
        """


@runtime_checkable
class CorrectableTask(Task, Protocol):
    """A task that can also train for the aggregation ``scaffold``."""

    def fit_corrected(
        self, weights: Arrays, settings: Settings, report: Report, stop: Stop, correction: Arrays
    ) -> Fit:
        """Train as ``fit`` does by plain gradient steps, with ``correction`` added to each gradient.

        ``correction`` has arrays of float32 by the names of the model's; one that it lacks is zero. The
        result has to have its ``steps``.
        """
