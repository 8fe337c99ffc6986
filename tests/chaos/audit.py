"""Recomputes every model of a run from the updates that were counted, and recounts the replies."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import safetensors.numpy

from fedgrass.console.runs.fleet_operator import RoundRecord
from fedgrass.federation import object_keys, weights
from fedgrass.federation.aggregation import STRATEGIES
from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.rounds import Participant, Participation, Round, State
from fedgrass.federation.runs import Run, RunState
from fedgrass.federation.settings import RunSettings
from tests.chaos.reference import CARRIED, Model, Server, Update, next_model, read_file

# How far values may differ, relative to values above 1: of means, which are rounded once; of what is made in
# several steps, some of them in float32; of the int8 of a model whose largest value is about 10.
CLOSE_ENOUGH, ROUNDED = 1e-6, 2e-5
# What an encoding may lose of a value, as a share of it; int8 has 127 steps up to an array's largest value.
LOST = {"float16": 2**-11, "bfloat16": 2**-8}
INT8_STEPS = 127


@dataclass(frozen=True)
class Evidence:
    """The objects and rows of a run after its end."""

    run: Run
    records: Sequence[RoundRecord]
    objects: Mapping[str, bytes]  # by key: the run's models and its updates
    model_contents: Mapping[str, int]  # by key: how many different models S3 took
    # By the key of an update: the key of the model that its device was told to start from.
    starts: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Findings:
    """The findings that the campaign prints at its end."""

    closed: int = 0
    replies: int = 0
    abandoned: Counter[str] = field(default_factory=Counter)  # by reason
    double_counted: list[str] = field(default_factory=list)
    wrong_models: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    aggregations: Counter[str] = field(default_factory=Counter)  # rounds closed by each, and by encoding
    encodings: Counter[str] = field(default_factory=Counter)
    buffers: int = 0  # rounds closed by buffered runs
    stale: int = 0  # updates in models that started from an older model than the newest

    def add(self, other: "Findings") -> None:
        """Add the findings of another campaign."""
        self.closed += other.closed
        self.replies += other.replies
        self.abandoned += other.abandoned
        self.double_counted += other.double_counted
        self.wrong_models += other.wrong_models
        self.stuck += other.stuck
        self.aggregations += other.aggregations
        self.encodings += other.encodings
        self.buffers += other.buffers
        self.stale += other.stale


def audit(evidence: Evidence, findings: Findings) -> None:
    """Add the findings of a run that has ended to ``findings``."""
    closed: list[int] = []
    base, server = evidence.run.initial_sha256, Server()
    for record in evidence.records:
        one = record.round
        where = f"{one.run}/{one.number}/{one.attempt}"
        findings.replies += one.replied
        findings.double_counted += [f"{where}: {problem}" for problem in _miscounted(record)]
        if one.base_sha256 != base:
            findings.wrong_models.append(f"{where}: it starts from another model than the newest")
        if one.state is State.ABANDONED:
            findings.abandoned[one.reason.partition(" (")[0]] += 1
        if one.state is State.CLOSED:
            closed.append(one.number)
            base = one.model_sha256
            findings.wrong_models += [f"{where}: {problem}" for problem in _wrong(evidence, record, server)]
            findings.stale += sum(age > 0 for _, age in _starts(evidence, record).values())
    findings.double_counted += [f"{evidence.run.name}: {problem}" for problem in _counted_again(evidence)]
    findings.closed += len(set(closed))
    findings.buffers += len(set(closed)) if evidence.run.settings.mode == "buffered" else 0
    findings.aggregations[evidence.run.settings.aggregation] += len(set(closed))
    findings.encodings[evidence.run.settings.upload_encoding] += len(set(closed))
    findings.wrong_models += [f"{evidence.run.name}: {problem}" for problem in _wrong_set(evidence, closed)]


def _miscounted(record: RoundRecord) -> Iterator[str]:
    """Yield the differences between a round's counters and the states of its participants."""
    one, parts = record.round, Counter(participant.state for participant in record.participants)
    for name, counted, states in (
        ("replied", one.replied, (Participation.REPLIED, Participation.REFUSED)),
        ("refused", one.refused, (Participation.REFUSED,)),
        ("declined", one.declined, (Participation.DECLINED,)),
        ("failed", one.failed, (Participation.FAILED,)),
        ("silent", one.silent, (Participation.SILENT,)),
        ("late", one.late, (Participation.LATE,)),
    ):
        devices = sum(parts[state] for state in states)
        if counted != devices:
            yield f"{name} is {counted}, but {devices} participants are"
    accepted = sum(participant.accepted for participant in record.participants)
    if one.accepted != accepted:
        yield f"accepted is {one.accepted}, but {accepted} devices have"
    good = sum(part.bytes for part in record.participants if part.state is Participation.REPLIED)
    if one.bytes_up != good:
        yield f"bytes_up is {one.bytes_up}, but the good replies have {good} bytes"


def _wrong(evidence: Evidence, record: RoundRecord, server: Server) -> Iterator[str]:
    """Yield the differences between a closed round's files and those computed from the counted updates."""
    one, settings = record.round, evidence.run.settings
    updates = []
    for reply in record.participants:
        if reply.state is not Participation.REPLIED:
            continue
        key = _key_of(evidence, one, reply)
        if not key or not _is_whole(evidence.objects[key]):
            yield f"the update of {reply.device} in the bucket is not the one that was counted"
            return
        start, age = _start(evidence, one, key)
        loss = reply.metrics.get("loss", 0.0)
        updates.append(
            Update(evidence.objects[key], reply.examples, loss, _floats(evidence.objects[start]), age)
        )
        if age < 0 or age > (settings.max_staleness if settings.mode == "buffered" else 0):
            yield f"it counts the update of {reply.device}, which started {age} models before its base"
    published = evidence.objects.get(object_keys.model(one.run, one.number), b"")
    if hashlib.sha256(published).hexdigest() != one.model_sha256:
        yield "the model in the bucket is not the one that the round published"
        return
    model = _floats(published)
    base = _floats(evidence.objects[object_keys.model(one.run, one.base)])
    if set(model) != set(base):
        yield f"the model has the arrays {sorted(model)}, its base {sorted(base)}"
        return
    fixed = one.example_cap if one.groups else 0
    expected = next_model(base, updates, settings, server, one.asked, fixed)
    allowed = CLOSE_ENOUGH if is_a_mean(settings) else ROUNDED
    if (worst := _distance(model, expected, server.uncertain)) > allowed:
        yield f"the model differs from the {settings.aggregation} of {one.good} updates by {worst:.3g}"
    yield from _wrong_beside(evidence, one, server, model)


def _key_of(evidence: Evidence, one: Round, reply: Participant) -> str:
    """Return the key of the update that was counted, found by its checksum; empty if the device has none.

    In a synchronous run only the update of that attempt may count, in a buffered one any update of the run.
    """
    folder = object_keys.update(reply.device, one.run, one.number, one.attempt)
    keys = [folder]
    if evidence.run.settings.mode == "buffered":
        prefix = folder.rpartition("/")[0] + "/"
        keys = [key for key in evidence.objects if key.startswith(prefix)]
    return next((key for key in keys if weights.checksum(evidence.objects[key]) == reply.checksum), "")


def _start(evidence: Evidence, one: Round, update: str) -> tuple[str, int]:
    """Return the model that the device of an update was told to start from, and its age in models."""
    key = evidence.starts.get(update, object_keys.model(one.run, one.base))
    number = int(key.rpartition("/")[2].removesuffix(".safetensors"))
    return key, one.base - number


def _starts(evidence: Evidence, record: RoundRecord) -> dict[str, tuple[str, int]]:
    """Return the start of each update that a round counted, by the update's key."""
    replied = [part for part in record.participants if part.state is Participation.REPLIED]
    keys = [_key_of(evidence, record.round, reply) for reply in replied]
    return {key: _start(evidence, record.round, key) for key in keys if key}


def _counted_again(evidence: Evidence) -> Iterator[str]:
    """Yield the updates that are in the models of several rounds."""
    closed = [record for record in evidence.records if record.round.state is State.CLOSED]
    counted = Counter(key for record in closed for key in _starts(evidence, record))
    for key, times in counted.items():
        if times > 1:
            yield f"{key} is in {times} models"


def _wrong_beside(evidence: Evidence, one: Round, server: Server, model: Model) -> Iterator[str]:
    """Yield errors in the files that belong to a model: the server's state, the encoded download."""
    shapes = {name: array.shape for name, array in model.items()}
    for name, expected in server.state.items():
        data = evidence.objects.get(object_keys.state(one.run, one.number, name))
        kept = {a.removeprefix(CARRIED): v for a, v in read_file(data, shapes).items()} if data else {}
        if not kept or (worst := _distance(kept, expected, server.uncertain)) > ROUNDED:
            yield f"the state {name!r} differs by {worst:.3g}" if kept else f"the state {name!r} is missing"
    kind = evidence.run.settings.download_encoding
    if kind != "float32":
        data = evidence.objects.get(object_keys.encoded_model(one.run, one.number, kind), b"")
        if hashlib.sha256(data).hexdigest() != one.download_sha256:
            yield f"the model as {kind} in the bucket is not the one that the round published"
        elif (worst := _lost(read_file(data, shapes), model, kind)) > 1 + ROUNDED:
            yield f"the model as {kind} differs from the model by {worst:.3g} times what the encoding loses"


def _lost(found: Model, model: Model, kind: str) -> float:
    """Return the largest difference, as a multiple of the allowed loss of the encoding."""
    worst = 0.0
    for name, values in model.items():
        largest = float(np.max(np.abs(values), initial=0.0))
        most = largest / INT8_STEPS if kind == "int8" else np.abs(values) * LOST[kind]
        worst = max(worst, float(np.max(np.abs(found[name] - values) / (most + np.finfo(np.float16).tiny))))
    return worst if np.isfinite(worst) else np.inf


def _distance(found: Model, expected: Model, uncertain: Mapping[str, Any]) -> float:
    """Return the largest difference, relative to values above 1; infinite for NaN.

    ``uncertain`` has, by array, the values that are not compared.
    """
    worst = 0.0
    for name, values in expected.items():
        off = np.abs(found[name] - values) / np.maximum(1.0, np.abs(values))
        worst = max(worst, float(np.max(np.where(uncertain.get(name, False), 0.0, off))))
    return worst if np.isfinite(worst) else np.inf


def _floats(data: bytes) -> Model:
    return {name: array.astype(np.float64) for name, array in safetensors.numpy.load(data).items()}


def is_a_mean(settings: RunSettings) -> bool:
    """Return whether a run's models are plain means, which are exact except for the last rounding."""
    return settings.aggregation in {"mean", "weighted_mean", "fedprox", "scaffold"} and not settings.clip_norm


def _is_whole(data: bytes) -> bool:
    """Return whether the data of an update matches the checksum in its header."""
    try:
        weights.check_data(data)
    except UpdateRefused:
        return False
    return True


def _wrong_set(evidence: Evidence, closed: Sequence[int]) -> Iterator[str]:
    """Yield errors in the set of a run's models: there is one per closed round, and it never changes."""
    run = evidence.run
    if len(set(closed)) < len(closed):
        yield f"a round was closed twice: {closed}"
    expected = {object_keys.model(run.name, number) for number in [0, *closed]}
    states = STRATEGIES[run.settings.aggregation].state
    expected |= {object_keys.state(run.name, number, name) for number in closed for name in states}
    if (kind := run.settings.download_encoding) != "float32":
        expected |= {object_keys.encoded_model(run.name, number, kind) for number in [0, *closed]}
    found = {key for key in evidence.objects if key.startswith("models/")}
    if found != expected:
        yield f"the bucket has the models {sorted(found)}; the closed rounds are {closed}"
    for key in sorted(expected):
        if (contents := evidence.model_contents.get(key, 0)) > 1:
            yield f"{key} was written with {contents} different contents"
    if run.state is RunState.SUCCEEDED and sorted(closed) != list(range(1, run.settings.rounds + 1)):
        yield f"the run SUCCEEDED, but only the rounds {closed} are closed"
