"""Generated vibration of rotating machines: replace it by reading your own sensor.

A window has 256 samples of 2,048 a second. The shaft adds harmonics of its speed; a damaged bearing adds an
impulse several times per revolution, each of which rings at a resonance of the housing. Two places differ, as
a test bench and a plant do:

    bench   what the base model is trained on: one fault at a time, little noise, six classes
    plant   what the devices measure: the sensor is mounted the other way round, other resonances and speeds,
            more noise, and six other classes, among them two faults at once
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SAMPLES, RATE = 256, 2048  # of a window; per second
_SHAFTS = np.array(  # amplitudes of the first six harmonics
    [
        [0.3, 0.10, 0.05, 0.02, 0.02, 0.02],  # good
        [1.2, 0.15, 0.08, 0.03, 0.02, 0.02],  # unbalanced
        [0.6, 1.00, 0.50, 0.10, 0.05, 0.02],  # misaligned
        [0.6, 0.50, 0.50, 0.40, 0.35, 0.30],  # loose
    ]
)
_IMPULSES = np.array([0.0, 3.6, 5.4])  # per revolution, of a bearing: good, outer ring, inner ring
_INNER = 2
_CLASSES = {  # index of the shaft, index of the bearing
    "bench": np.array([(0, 0), (1, 0), (2, 0), (3, 0), (0, 1), (0, 2)]),
    "plant": np.array([(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1)]),
}
CLASSES = 6  # of either place
_SPEEDS = {"bench": (20, 70), "plant": (30, 70)}  # revolutions per second
_RESONANCES = {"bench": (500, 800), "plant": (450, 700)}  # Hz
_NOISE = {"bench": 0.20, "plant": 0.25}
_DECAY = 250.0  # of an impulse, per second


def read_windows(place: str, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return windows, float32 of shape (count, SAMPLES), and their classes, int64 of shape (count,).

    Args:
        place: ``bench`` or ``plant``.
        count: number of windows.
        seed: of everything random; another machine has another seed.
    """
    random = np.random.default_rng(seed)
    classes = random.integers(0, CLASSES, count)
    shaft, bearing = _CLASSES[place][classes].T
    times = np.arange(SAMPLES) / RATE
    speed = random.uniform(*_SPEEDS[place], (count, 1))
    signal = _harmonics(shaft, speed * times, random) + _impulses(place, bearing, speed, times, random)
    if place == "plant":
        signal = -signal
    signal += random.normal(0, _NOISE[place], signal.shape)
    return torch.from_numpy(signal.astype(np.float32)), torch.from_numpy(classes)


Array = NDArray[np.floating]


def _harmonics(shaft: NDArray[np.intp], turns: Array, random: np.random.Generator) -> Array:
    """Return the vibration of shafts, shape (count, SAMPLES), for the revolutions at each sample."""
    count, numbers = len(shaft), np.arange(1, 7)
    amplitudes = _SHAFTS[shaft] * random.uniform(0.6, 1.4, (count, 6))
    phases = random.uniform(0, 2 * np.pi, (count, 6))
    waves = np.sin(2 * np.pi * turns[:, None] * numbers[:, None] + phases[:, :, None])
    total: Array = (amplitudes[:, :, None] * waves).sum(axis=1)
    return total


def _impulses(
    place: str, bearing: NDArray[np.intp], speed: Array, times: Array, random: np.random.Generator
) -> Array:
    """Return the vibration of bearings, shape (count, SAMPLES); an inner ring turns through the load."""
    count = len(bearing)
    rate = speed * np.maximum(_IMPULSES[bearing], 1.0)[:, None]  # impulses per second
    since = ((times + random.uniform(0, 1, (count, 1))) * rate) % 1 / rate
    resonance = random.uniform(*_RESONANCES[place], (count, 1))
    ring = np.exp(-_DECAY * since) * np.sin(2 * np.pi * resonance * since)
    load = 0.5 + 0.5 * np.sin(2 * np.pi * speed * times + random.uniform(0, 2 * np.pi, (count, 1)))
    ring *= np.where(bearing[:, None] == _INNER, load, 1.0) * (bearing > 0)[:, None]
    strong: Array = ring * random.uniform(0.7, 1.3, (count, 1))
    return strong
