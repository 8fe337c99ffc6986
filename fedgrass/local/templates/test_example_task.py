"""The task `example-task` learns, and its weights are what a fleet can average."""

import numpy as np
from example_task import ExampleTask


def test_the_same_seed_gives_the_same_initial_weights() -> None:
    task = ExampleTask()
    first, second = task.initial_weights(1), task.initial_weights(1)
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_there_are_examples_to_train_on_and_others_to_evaluate_on() -> None:
    task = ExampleTask()
    assert task.examples() > 0
    assert task.evaluate(task.initial_weights(0)).examples > 0


def test_a_round_makes_the_loss_smaller() -> None:
    task = ExampleTask()
    weights = task.initial_weights(0)
    fit = task.fit(weights, {"epochs": 5}, lambda done: None, lambda: False)
    assert task.evaluate(fit.weights).metrics["loss"] < task.evaluate(weights).metrics["loss"]
