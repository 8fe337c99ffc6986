"""The interface of a task: a model, its local data and its training, in terms of named numpy arrays.

``Task`` is the whole contract between fedgrass and a user's code; it needs no particular framework. For a
PyTorch module, :class:`components.trainer.training.TorchTask` implements it. A complete task in numpy, a mean
that is learned by one parameter:

    class MeanTask:
        def __init__(self, file: str) -> None:
            self._values = np.loadtxt(file)

        def initial_weights(self, seed):
            return {"mean": np.zeros(1, np.float32)}

        def evaluate(self, weights):
            held_out = self._values[::10]
            return Evaluation(len(held_out), {"loss": float(np.mean((held_out - weights["mean"]) ** 2))})

        def fit(self, weights, settings, report, stop):
            step = settings.get("learning_rate", 0.1) * (self._values.mean() - weights["mean"])
            report(1.0)
            return Fit({"mean": (weights["mean"] + step).astype(np.float32)}, len(self._values))

        def examples(self):
            return len(self._values)

docs/own_task.md describes tasks for their authors; docs/examples has complete ones, each run by a test.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from fedgrass.federation.errors import FedgrassError
from fedgrass.federation.messages.message_types import MessageHeader
from fedgrass.federation.task_messages.message_content import Record
from fedgrass.federation.weights import Arrays
from fedgrass.federation.weights.array_sharing import Sharing

Settings = Mapping[str, bool | int | float | str]  # of the training, by name
Report = Callable[[float], None]  # takes the completed fraction of the training, 0 to 1
Stop = Callable[[], bool]  # returns whether the training should stop soon
Features = Mapping[str, Any] | Iterable[Mapping[str, Any]]  # arrays with n rows each, or batches of them
Predict = Callable[[Sequence[object]], list[object]]  # takes n inputs, returns n outputs, all JSON values


def _ignore(_fraction: float) -> None:
    """Report nothing."""


def _never() -> bool:
    return False


class InputRefused(FedgrassError):
    """The model cannot take an application's input; the text names the input and what the model accepts."""


@dataclass(frozen=True)
class Evaluation:
    """Result of an evaluation.

    Attributes:
        examples: number of examples that were evaluated, by which the cloud weights the metrics.
        metrics: means over these examples by name, such as ``loss`` and ``accuracy``; finite numbers of
            Python, numpy or PyTorch.
    """

    examples: int
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class GradientSteps:
    """Plain steps of gradient descent: weights = weights - learning_rate * gradient, ``count`` times.

    Attributes:
        count: number of steps, at least 1.
        learning_rate: the same in each step, above 0.
        arrays: names of the model's arrays that have gradients. None: all floating-point arrays except those
            whose names mark them as statistics, such as ``running_mean``.
    """

    count: int
    learning_rate: float
    arrays: frozenset[str] | None = None


@dataclass(frozen=True)
class Fit:
    """The result of one call of ``fit``.

    Attributes:
        weights: the trained weights, with the names and shapes of the initial ones.
        examples: number of examples (not batches) seen in training, by which the cloud weights the update.
        metrics: measured during the training, such as ``train_loss``.
        partial: the training was stopped early; ``examples`` counts those seen until then.
        steps: how the weights were trained; required of ``fit_corrected`` only.
        trained: names of the arrays that have gradients. Server optimizers step these and average all others,
            such as running means. None: determined from the names of the arrays.
        update: what is sent in place of the weights, in runs whose aggregation reads whole updates
            (``tree_bagging``): named arrays of any shapes. None: the weights are sent.
    """

    weights: Arrays
    examples: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    partial: bool = False
    steps: GradientSteps | None = None
    trained: frozenset[str] | None = None
    update: Arrays | None = None


@dataclass(frozen=True)
class RoundPlace:
    """Which round an assignment belongs to, and where the task may keep its state.

    Attributes:
        run: name of the run.
        number: of the round, from 1.
        device: the thing name of this device.
        state: the file with what the task has kept for this run; it may be missing. Read-only.
        state_after: the file to write for the next assignment; the trainer adopts it once the update or the
            reply has been uploaded.
        training: the run's settings of the training, which ``evaluate`` and ``answer`` do not get otherwise.
    """

    run: str
    number: int
    device: str
    state: Path
    state_after: Path
    training: Settings = field(default_factory=dict)


@dataclass(frozen=True)
class TaskMessage:
    """A message of a ServerApp.

    Attributes:
        header: its type, such as ``train`` or ``query.histogram``, its group and its time to live.
        records: its content, without the data of arrays.
        data: of each array in ``records``, in their order, as the sender has serialised it.
        report: may be called occasionally with the completed fraction of the work, 0 to 1.
        stop: returns True once the reply is not needed any more: the message was replaced, or the trainer
            ends.
    """

    header: MessageHeader
    records: Sequence[Record]
    data: Sequence[bytes]
    report: Report = _ignore
    stop: Stop = _never


@dataclass(frozen=True)
class Answer:
    """The reply to a message of a ServerApp.

    Attributes:
        records: its content, without the data of arrays.
        data: of each array in ``records``, in their order; read once, as the reply is written.
        examples: number of examples that it is about; 0 if it states none.
        metrics: single numbers by name, for the run's history; those of training, of evaluation, or of both.
    """

    records: Sequence[Record]
    data: Iterable[bytes | memoryview]
    examples: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)


class Task(Protocol):
    """A model, its local data and its training. Created once in the worker and used for many rounds.

    Weights are mappings from names to numpy arrays: float64, float32, float16, int64, int32, int16, int8,
    uint8 or bool, of any shape. Arrays that are bfloat16 in the model's file are passed as float32.
    """

    def __init__(self, **options: bool | float | str) -> None:
        """Create the task with its options from the component's configuration."""

    def initial_weights(self, seed: int) -> Arrays:
        """Return the weights with which a run starts; equal seeds give equal weights."""

    def evaluate(self, weights: Arrays) -> Evaluation:
        """Evaluate a model on local data that is never trained on.

        Called with the global model and, after training, with the weights that ``fit`` returned.

        Args:
            weights: the model; read-only.
        """

    def fit(self, weights: Arrays, settings: Settings, report: Report, stop: Stop) -> Fit:
        """Train the model on the local data for one round.

        Args:
            weights: the global model from which to start; read-only.
            settings: the run's settings of the training.
            report: to be called occasionally with the completed fraction, 0 to 1.
            stop: to be called often, for example after each batch. Once it returns True, return soon: with a
                partial ``Fit`` of what has been reached, or by raising an exception.
        """

    def examples(self) -> int:
        """Return the current number of local examples for training."""


@runtime_checkable
class StatisticsTask(Task, Protocol):
    """A task that answers queries of federated statistics about its data; see docs/statistics.md."""

    def features(self) -> Features:
        """Return the local data as features: arrays by name, with a row per example.

        An array of shape (n,) is one feature; one of shape (n, c), c at most 64, is c features ``name.0``,
        ``name.1``, ...; any other one is a single feature of all its values. NaN is a missing value. The
        array ``labels``, and arrays of text, are counted by their values instead. Data that do not fit into
        memory are returned as an iterable of such mappings, one batch after the other.
        """


@runtime_checkable
class PartialTask(Task, Protocol):
    """A task of which only some arrays travel.

    ``evaluate`` and ``fit`` get all arrays: the shared ones of the run's model, the private ones that this
    device keeps, and the frozen ones. ``fit`` returns all of them; frozen ones may be left out. Only shared
    arrays are sent. ``initial_weights`` returns all arrays; its frozen ones must not depend on the seed.
    """

    def sharing(self) -> Sharing:
        """Return the patterns of the shared, private and frozen arrays, always the same."""


@runtime_checkable
class MessageTask(Task, Protocol):
    """A task that answers the messages of a ServerApp, which has the run in its own hands."""

    def answer(self, message: TaskMessage) -> Answer:
        """Return the reply to a message.

        An exception of the app becomes the failure of the assignment; the trainer sends its text in short
        and logs its traceback.
        """


@runtime_checkable
class RunAwareTask(Task, Protocol):
    """A task that keeps something for each run, across rounds and restarts."""

    def begin_round(self, place: RoundPlace) -> None:
        """Learn which round the following calls belong to; called before each assignment."""


class PredictingTask(Task, Protocol):
    """A task whose model can be served by com.fedgrass.Predictor."""

    def predictor(self, weights: Arrays) -> Predict:
        """Return a function that predicts with these weights.

        The function is called on another thread than the task's other methods, and keeps using these weights
        whatever the task does later. It takes a sequence of n inputs as decoded from JSON, returns a list of
        n outputs that can be encoded as JSON, and raises InputRefused for an input that the model cannot
        take.
        """


@runtime_checkable
class CorrectableTask(Task, Protocol):
    """A task that can also train for the aggregation ``scaffold``.

    See Karimireddy et al., "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning", ICML 2020
    (https://arxiv.org/abs/1910.06378).
    """

    def fit_corrected(
        self, weights: Arrays, settings: Settings, report: Report, stop: Stop, correction: Arrays
    ) -> Fit:
        """Train as ``fit`` does, by plain gradient steps with ``correction`` added to each gradient.

        Args:
            weights: as in ``fit``.
            settings: as in ``fit``.
            report: as in ``fit``.
            stop: as in ``fit``.
            correction: c - c_i of the paper: float32 arrays with names and shapes of the model's arrays; a
                missing array stands for zeros.

        Returns:
            A ``Fit`` with its ``steps``.
        """
