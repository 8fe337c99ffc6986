"""A short fault-injection campaign, and defects that its audit must find."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import package
from fedgrass.console.runs.fleet_operator import RoundRecord
from fedgrass.federation import object_keys
from fedgrass.federation.rounds import Participant, Participation, Round, State
from fedgrass.federation.runs import Run, RunState
from fedgrass.federation.settings_parser import parse_settings
from fedgrass.federation.weights import Arrays, checksum, encode
from tests.chaos.audit import Evidence, Findings, audit
from tests.chaos.pace import measured_stretch

ROUNDS, SECONDS, LONGEST_STRETCH = 4, 100, 3  # a run of two rounds in each of the two fleets


@pytest.mark.timeout(LONGEST_STRETCH * SECONDS + 90)
def test_no_crash_and_no_lost_message_stops_or_spoils_a_run(tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    session = tmp_path / "run"  # runtime folder of a login, with the control sockets of cores
    session.mkdir(mode=0o700)
    seconds = SECONDS * min(LONGEST_STRETCH, measured_stretch())
    campaign = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--rounds", str(ROUNDS), "--seconds", str(seconds)],
        cwd=package.ROOT,
        env={
            "PATH": "/usr/bin:/bin",
            "HOME": str(tmp_path),
            "TMPDIR": str(temporary),
            "XDG_RUNTIME_DIR": str(session),
        },
        capture_output=True,
        text=True,
        timeout=seconds + 60,
        check=False,
    )
    assert campaign.stdout, campaign.stderr
    figures = json.loads(campaign.stdout.splitlines()[-1])
    found = (figures["double_counted"], figures["wrong_models"], figures["stuck_runs"])
    assert found == (0, 0, 0), campaign.stdout
    # The number of rounds in the time depends on the load of the machine.
    assert figures["rounds_closed"] > 0, campaign.stdout
    assert {"averager_killed", "device_killed", "message_dropped"} <= set(figures["faults"]), campaign.stdout
    assert list(temporary.iterdir()) == []


def evidence(chosen: Mapping[str, Any] | None = None, **changes: Any) -> Evidence:
    """Return the evidence of a correct run of one round: two replies, of 1 and of 3 examples."""
    settings = parse_settings({"task": "noise", "rounds": 1, **(chosen or {})})
    updates = {"thing-1": np.zeros(4, np.float32), "thing-2": np.ones(4, np.float32)}
    objects = {
        object_keys.update(thing, "run-1", 1, 1): encode({"body": body}) for thing, body in updates.items()
    }
    participants = [
        Participant(
            device=thing,
            state=Participation.REPLIED,
            announced_at=1,
            examples=examples,
            checksum=checksum(objects[object_keys.update(thing, "run-1", 1, 1)]),
        )
        for thing, examples in (("thing-1", 1), ("thing-2", 3))
    ]
    models: list[Arrays] = [{"body": np.zeros(4, np.float32)}, {"body": np.full(4, 0.75, np.float32)}]
    files = [encode(model) for model in models]
    digests = [hashlib.sha256(file).hexdigest() for file in files]
    objects |= {object_keys.model("run-1", number): file for number, file in enumerate(files)}
    closed = Round(
        run="run-1", number=1, attempt=1, state=State.CLOSED, asked=2, needed=2, minimum=1, opened_at=1,
        deadline_at=2, base_sha256=digests[0], base_bytes=1, replied=2, model_sha256=digests[1],
    )  # fmt: skip
    run = Run(
        name="run-1", state=RunState.SUCCEEDED, settings=settings, started_at=1,
        initial_sha256=digests[0], initial_bytes=1, round=1, attempt=1,
    )  # fmt: skip
    record = RoundRecord(msgspec.structs.replace(closed, **changes), participants)
    return Evidence(run, [record], objects, {})


def stale_evidence(starts: int = 0, weight: float = 0.5**0.5) -> Evidence:
    """Return the evidence of a buffered run: its second round has an update that started from model 0.

    Args:
        starts: number of the model that the second device was told to start from.
        weight: by which the averager multiplied that device's change.
    """
    first = evidence({"mode": "buffered", "rounds": 2, "buffer_size": 2, "in_flight": 4})
    (record,) = first.records
    keys = [object_keys.update("thing-1", "run-1", 2, 1), object_keys.update("thing-3", "run-1", 1, 1)]
    files = [encode({"body": np.full(4, value, np.float32)}) for value in (2.75, 4.0)]
    participants = [
        Participant(
            device=key.split("/")[1],
            state=Participation.REPLIED,
            announced_at=1,
            examples=2,
            checksum=checksum(file),
        )
        for key, file in zip(keys, files, strict=True)
    ]
    # Changes of 2 since model 1 (0.75), and of 4 since model 0.
    made = encode({"body": np.full(4, 0.75 + (2 + weight * 4) / 2, np.float32)})
    second = msgspec.structs.replace(
        record.round,
        number=2,
        base=1,
        base_sha256=record.round.model_sha256,
        model_sha256=hashlib.sha256(made).hexdigest(),
    )
    objects = {**first.objects, **dict(zip(keys, files, strict=True)), object_keys.model("run-1", 2): made}
    told = {keys[0]: object_keys.model("run-1", 1), keys[1]: object_keys.model("run-1", starts)}
    records = [record, RoundRecord(second, participants)]
    return Evidence(first.run, records, objects, {}, told)


def found_in(what: Evidence) -> Findings:
    findings = Findings()
    audit(what, findings)
    return findings


def with_model(what: Evidence, model: Arrays) -> Evidence:
    """Return the evidence with another model in the round and in the bucket."""
    file = encode(model)
    objects: Mapping[str, bytes] = {**what.objects, object_keys.model("run-1", 1): file}
    (record,) = what.records
    closed = msgspec.structs.replace(record.round, model_sha256=hashlib.sha256(file).hexdigest())
    return Evidence(what.run, [RoundRecord(closed, record.participants)], objects, what.model_contents)


def test_the_audit_finds_nothing_in_a_flawless_run() -> None:
    findings = found_in(evidence())
    assert (findings.closed, findings.double_counted, findings.wrong_models) == (1, [], [])


def test_the_audit_finds_a_reply_that_was_counted_twice() -> None:
    assert "replied is 3" in found_in(evidence(replied=3)).double_counted[0]


def test_the_audit_finds_a_model_that_averaged_one_update_twice() -> None:
    twice = with_model(evidence(), {"body": np.full(4, 6 / 7, np.float32)})
    assert "differs from the weighted_mean of 2 updates by 0.107" in found_in(twice).wrong_models[0]


def test_the_audit_finds_a_model_that_was_replaced_after_its_round() -> None:
    replaced = with_model(evidence(), {"body": np.ones(4, np.float32)})
    stale = Evidence(replaced.run, evidence().records, replaced.objects, {})
    assert "not the one that the round published" in found_in(stale).wrong_models[0]


def test_the_audit_finds_a_model_that_was_changed_or_of_no_round() -> None:
    good = evidence()
    model = object_keys.model("run-1", 1)
    twice = Evidence(good.run, good.records, good.objects, {model: 2})
    assert "2 different contents" in found_in(twice).wrong_models[0]
    stray = {**good.objects, object_keys.model("run-1", 2): b"stray"}
    assert (
        "the bucket has the models" in found_in(Evidence(good.run, good.records, stray, {})).wrong_models[0]
    )


def test_the_audit_finds_a_round_that_started_from_a_stale_model() -> None:
    assert "starts from another model" in found_in(evidence(base_sha256="0" * 64)).wrong_models[0]


def test_the_audit_finds_nothing_in_a_flawless_buffered_run() -> None:
    findings = found_in(stale_evidence())
    assert (findings.wrong_models, findings.double_counted) == ([], [])
    assert (findings.buffers, findings.stale) == (2, 1)


def test_the_audit_finds_a_stale_update_with_the_weight_of_a_fresh_one() -> None:
    wrong = found_in(stale_evidence(weight=1.0)).wrong_models
    assert wrong == ["run-1/2/1: the model differs from the weighted_mean of 2 updates by 0.185"]


def test_the_audit_finds_a_change_relative_to_another_model_than_the_devices_start() -> None:
    assert "differs from the weighted_mean" in found_in(stale_evidence(starts=1)).wrong_models[0]


def test_the_audit_finds_an_update_in_the_models_of_two_rounds() -> None:
    good = stale_evidence()
    first, second = good.records
    again = RoundRecord(
        msgspec.structs.replace(second.round, replied=3), [*second.participants, first.participants[1]]
    )
    found = found_in(Evidence(good.run, [first, again], good.objects, {}, good.starts)).double_counted
    assert found == ["run-1: updates/thing-2/run-1/1-1.safetensors is in 2 models"]


def test_the_audit_finds_a_state_of_the_server_that_is_missing_or_wrong() -> None:
    good = evidence({"aggregation": "fedavgm"})
    key = object_keys.state("run-1", 1, "momentum")
    missing = found_in(good).wrong_models
    assert any("the state 'momentum' is missing" in problem for problem in missing)
    right = {**good.objects, key: encode({"body": np.full(4, 0.75, np.float32)})}
    assert found_in(Evidence(good.run, good.records, right, {})).wrong_models == []
    wrong = {**good.objects, key: encode({"body": np.zeros(4, np.float32)})}
    assert (
        "'momentum' differs by 0.75" in found_in(Evidence(good.run, good.records, wrong, {})).wrong_models[0]
    )


def test_the_audit_finds_a_download_that_is_not_the_model() -> None:
    wrong = encode({"body": np.ones(4, np.float16)})
    digest = hashlib.sha256(wrong).hexdigest()
    good = evidence({"download_encoding": "float16"}, download_sha256=digest)
    keys = [object_keys.encoded_model("run-1", number, "float16") for number in (0, 1)]
    objects = {**good.objects, **dict.fromkeys(keys, wrong)}
    found = found_in(Evidence(good.run, good.records, objects, {})).wrong_models
    assert found == [
        "run-1/1/1: the model as float16 differs from the model by 585 times what the encoding loses"
    ]
