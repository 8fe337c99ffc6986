"""Tests that the task `example-task` learns, and that a fleet can average its weights."""

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


def test_the_global_model_is_judged_by_examples_that_no_device_trains_on() -> None:
    task = ExampleTask()
    found = task.evaluate_held_out(task.initial_weights(0))
    assert found.examples > 0
    assert "loss" in found.metrics


def test_devices_of_the_demo_share_the_examples() -> None:
    alone = ExampleTask().examples()
    assert sum(ExampleTask(share=share, shares=3).examples() for share in range(3)) in range(
        alone - 6, alone + 1
    )
