"""Recomputes the models of a ServerApp from the replies that were counted, without fedgrass's code."""

import base64
import io
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
import safetensors.numpy

from fedgrass.federation import object_keys
from fedgrass.federation.rounds import ENDED, Participation, State
from fedgrass.federation.runs import Run, RunState
from tests.chaos.audit import _miscounted
from tests.chaos.evidence import settled

if TYPE_CHECKING:
    from tests.chaos.world import World

CLOSE_ENOUGH = 1e-5  # of float32 means of a few replies
STEPS = 3  # of the app


class Counted(NamedTuple):
    """A reply that a round has counted."""

    where: str  # run, round and device
    step: int  # of the app, by the message that it answers
    examples: int
    body: np.ndarray[Any, Any]


@dataclass
class AppFindings:
    """The findings on runs with ServerApps."""

    runs: int = 0
    rounds: int = 0  # closed
    replies: int = 0  # counted
    used: int = 0  # of these, by the ServerApps
    errors: Counter[str] = field(default_factory=Counter)  # in the place of replies, by their kind
    starts: int = 0  # processes of ServerApps
    double_counted: list[str] = field(default_factory=list)
    wrong_models: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)


def audit_app(
    world: "World", run: Run, folder: Path, findings: AppFindings, *, cancelled: bool = False
) -> None:
    """Add the findings on a run that has ended.

    Args:
        world: where it took place.
        run: the run.
        folder: the working folder of its ServerApp, with its journal and its models.
        findings: to add to.
        cancelled: the campaign has cancelled the run, for which no time was left.
    """
    findings.runs += 1
    if run.state is not RunState.SUCCEEDED and not cancelled:
        findings.stuck.append(f"{run.name} is {run.state}: {run.reason}")
    counted: dict[int, Counted] = {}  # by nonce
    for record in settled(world, run):
        one = record.round
        findings.rounds += one.state is State.CLOSED
        findings.double_counted += [f"{run.name}/{one.number}: {found}" for found in _miscounted(record)]
        if one.state not in ENDED:
            findings.stuck.append(f"{run.name}/{one.number} is left {one.state}")
        for part in record.participants:
            if part.state is Participation.REPLIED:
                findings.replies += 1
                where = f"{run.name}/{one.number} of {part.device}"
                nonce, reply = _read(world, run.name, one.number, part, where)
                if nonce in counted:
                    findings.double_counted.append(f"the reply of {where} is that of {counted[nonce].where}")
                counted[nonce] = reply
    _audit_steps(run, folder, counted, findings)


def _audit_steps(run: Run, folder: Path, counted: Mapping[int, Counted], findings: AppFindings) -> None:
    """Compare each model of the app with the mean of the replies in its journal."""
    journal = folder / "journal.jsonl"
    lines = [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []
    latest = {line["step"]: line for line in lines}  # a step whose end was not kept is repeated
    if run.state is RunState.SUCCEEDED and sorted(latest) != list(range(1, STEPS + 1)):
        findings.wrong_models.append(f"{run.name} has SUCCEEDED with the steps {sorted(latest)}")
    used = Counter(nonce for line in latest.values() for nonce in line["nonces"])
    findings.used += used.total()
    findings.double_counted += [
        f"{run.name}: the reply {counted[nonce].where if nonce in counted else nonce} is used {times} times"
        for nonce, times in used.items()
        if times > 1
    ]
    for step, line in latest.items():
        findings.errors.update(reason.partition(":")[0] for reason in line["errors"])
        findings.wrong_models += [f"{run.name}: an error without a reason" for r in line["errors"] if not r]
        if unknown := [nonce for nonce in line["nonces"] if nonce not in counted]:
            findings.wrong_models.append(
                f"{run.name} step {step} uses {len(unknown)} replies that no round counted"
            )
            continue
        replies = [counted[nonce] for nonce in line["nonces"]]
        findings.wrong_models += [
            f"{run.name} step {step} uses the reply of {reply.where}, which is of step {reply.step}"
            for reply in replies
            if reply.step != step
        ]
        if replies:
            expected = np.average(
                [reply.body for reply in replies], axis=0, weights=[reply.examples for reply in replies]
            )
            found = np.load(folder / f"model-{step}.npz")["body"]
            if not (worst := float(np.max(np.abs(found - expected)))) <= CLOSE_ENOUGH:
                findings.wrong_models.append(f"{run.name} step {step} differs from the mean by {worst:.3g}")


def _read(world: "World", run: str, number: int, part: Any, where: str) -> tuple[int, Counted]:
    """Return the nonce and the content of a counted reply, read without fedgrass's reader."""
    if part.answer:
        data = base64.b64decode(part.answer)
    else:
        key = object_keys.update(part.device, run, number, 1)
        data = world.cloud.client("s3").get_object(Bucket=world.stack["BucketName"], Key=key)["Body"].read()
    file = safetensors.numpy.load(data)
    records = {record["name"]: record for record in msgspec.msgpack.decode(file["records"].tobytes())}
    values = records["metrics"]["values"]
    body = np.load(io.BytesIO(file["0"].tobytes()), allow_pickle=False)
    return values["nonce"], Counted(where, values["step"], values["num-examples"], body)
