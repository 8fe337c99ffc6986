"""The questions that ``make bench`` asks, in order, and how long each may take."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Question:
    """One benchmark: ``python -m benchmarks.<name>``."""

    name: str
    title: str
    minutes: float  # that a full run takes on two quiet cores


QUESTIONS = (
    Question("round_overhead", "the overhead of a round, next to Flower and FLARE", 10.0),
    Question("averaging", "the averager and its growth, next to Flower", 3.0),
    Question("start", "from a bare machine to the first closed round", 3.0),
    Question("simulation", "the speed of simulations, next to a plain loop and Flower", 3.0),
    Question("learning", "accuracy and rounds, by data, set-up and strategy", 16.0),
    Question("stragglers", "time to an accuracy in a fleet with stragglers", 6.0),
    Question("bytes_to_accuracy", "bytes to an accuracy, by encoding and for partial models", 4.0),
    Question("encodings", "bytes and accuracy of encodings", 1.0),
    Question("partial_models", "bytes and accuracy of partial models", 1.0),
    Question("swarm", "1,000 light devices on the embedded cloud", 3.0),
    Question("flower_apps", "a Flower app on Flower and on fedgrass", 2.0),
    Question("device", "the cost of the device side", 1.5),
    Question("selection", "choosing a cohort", 1.0),
    Question("dashboard", "the dashboard of a large fleet", 1.0),
    Question("report_page", "the report of a long run", 0.5),
)
