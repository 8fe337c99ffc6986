"""One load test: connect the devices, start a run, follow its rounds, and compute the figures."""

import os
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from botocore.exceptions import BotoCoreError, ClientError
from msgspec import Struct

from fedgrass.federation import weights
from fedgrass.federation.errors import FedgrassError, SettingsError
from fedgrass.federation.rounds import State
from fedgrass.federation.runs import LIVING, Run
from fedgrass.federation.settings import RunSettings
from fedgrass.swarm.crowd_processes import CrowdProcesses
from fedgrass.swarm.devices.prepared_updates import initial_model
from fedgrass.swarm.swarm_cloud import SwarmCloud
from fedgrass.swarm.swarm_errors import SwarmError
from fedgrass.swarm.swarm_figures import (
    DynamoRequests,
    Load,
    MessageRates,
    Percentiles,
    RoundOfSwarm,
    bottleneck,
    dynamo_requests,
    load_between,
    message_rates,
    percentiles,
    round_figures,
    summed,
)
from fedgrass.swarm.swarm_measures import (
    FunctionTime,
    Look,
    RequestMeter,
    Watch,
    function_time,
    requests_in_cloudwatch,
)
from fedgrass.swarm.swarm_spec import MARK, Habits, RoundReplies, Sample

_LOOK_SECONDS: Final = 1.0
_REGISTER_SECONDS: Final = 120.0
_CONNECT_SPARE_SECONDS: Final = 120.0  # in addition to the ramp
_ROUND_SPARE_SECONDS: Final = 120.0  # of a round, in addition to its deadline
_LOG_SECONDS: Final = 10.0  # until AWS shows the last lines of the functions' logs
_VERDICT_SECONDS: Final = 15.0  # for the last verdicts, after the run has ended


@dataclass(frozen=True)
class SwarmPlan:
    """What a load test does."""

    swarm: str
    settings: RunSettings
    habits: Habits
    ramp: float
    processes: int
    reply_concurrency: int  # of the stack's averagers; 0: unknown
    meter: RequestMeter | None = None  # of the embedded cloud


class Churn(Struct, frozen=True, kw_only=True):
    """What happened to the devices during the run."""

    vanished: int
    returned: int
    lost: int  # connections that the broker or the network ended
    failed_transfers: int
    repeated: int  # announcements of work that was in progress or done


class SwarmReport(Struct, frozen=True, kw_only=True):
    """The result of a load test: the JSON of ``fedgrass swarm``."""

    swarm: str
    stack: str
    embedded: bool
    devices: int
    run: str
    state: str
    reason: str
    megabytes: float
    connect_seconds: float
    rounds: tuple[RoundOfSwarm, ...]
    turnaround: Percentiles | None  # of all counted replies
    replies_sent: int  # devices that completed, over all closed rounds
    replies_counted: int
    completions: int  # messages, with repeated ones
    exact: bool  # in every closed round each reply was counted exactly once
    messages: MessageRates
    functions: dict[str, FunctionTime]
    dynamodb: DynamoRequests | None
    load: Load
    bottleneck: str
    churn: Churn
    notes: tuple[str, ...]


@dataclass
class Measured:
    """What a load test measured, for its report and its picture."""

    report: SwarmReport
    samples: list[Sample] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)


def run_swarm(cloud: SwarmCloud, plan: SwarmPlan, report: Callable[[str], None]) -> Measured:
    """Carry out a load test.

    Args:
        cloud: with the things of the devices.
        plan: what to do.
        report: called with a line per step.

    Raises:
        SwarmError: the devices cannot connect, or a wait has timed out.
        SettingsError: the settings of the run are refused.
    """
    devices, operator = len(cloud.things), cloud.operator
    crowd = CrowdProcesses(
        plan.swarm, cloud.things, cloud.address, plan.habits, ramp=plan.ramp, count=plan.processes
    )
    watch = Watch(cloud.clients, cloud.outputs["RepliesQueueUrl"])
    with ExitStack() as exits:
        exits.enter_context(crowd)
        exits.callback(watch.stop)
        started = time.monotonic()
        crowd.wait_until_ready(devices / plan.ramp + _CONNECT_SPARE_SECONDS, report)
        _wait_for_heartbeats(cloud, crowd)
        connect_seconds = time.monotonic() - started
        report(f"{devices} devices are connected and have sent a heartbeat ({connect_seconds:.1f} s)")
        watch.start()
        if plan.meter:
            plan.meter.begin()
        since = time.time()
        exits.callback(_cancel, cloud, plan.swarm)
        operator.start(plan.swarm, plan.settings, dict(initial_model(plan.habits.megabytes)))
        run = _follow(cloud, plan, crowd, report)
        until = time.time()
        requests = plan.meter.read() if plan.meter else None
        _wait_for_verdicts(crowd, run)
        watch.stop()
        samples = summed(crowd.samples)
        replies = crowd.stop()
        if requests is None:
            requests = _cloudwatch(cloud, since, until)
    return _measured(
        cloud,
        plan,
        run,
        replies,
        samples,
        watch.looks,
        requests,
        since=since,
        until=until,
        connect_seconds=connect_seconds,
    )


def _wait_for_heartbeats(cloud: SwarmCloud, crowd: CrowdProcesses) -> None:
    names, deadline = {one.thing for one in cloud.things}, time.monotonic() + _REGISTER_SECONDS
    while missing := len(names - {one.device for one in cloud.operator.devices()}):
        crowd.check()
        if time.monotonic() > deadline:
            message = (
                f"{missing} of {len(names)} devices are not in the devices table"
                f" {_REGISTER_SECONDS:.0f} s after their heartbeats"
            )
            raise SwarmError(message)
        time.sleep(_LOOK_SECONDS)


def _follow(cloud: SwarmCloud, plan: SwarmPlan, crowd: CrowdProcesses, report: Callable[[str], None]) -> Run:
    """Return the run once it has ended. Raises SwarmError if it does not."""
    settings, told = plan.settings, set[tuple[int, int]]()
    attempts = settings.rounds * settings.attempts
    deadline = time.monotonic() + attempts * (settings.deadline_seconds + _ROUND_SPARE_SECONDS)
    while True:
        crowd.check()
        run = cloud.operator.run(plan.swarm)
        for found in cloud.operator.rounds_alone(run, max(1, run.round - 1)):
            key = found.number, found.attempt
            if found.closed_at and key not in told:
                told.add(key)
                seconds = (found.closed_at - (found.choosing_at or found.opened_at)) / 1000
                report(
                    f"round {found.number}.{found.attempt} {found.state}: {found.replied} of {found.asked}"
                    f" replied, {seconds:.1f} s{f' ({found.reason})' if found.reason else ''}"
                )
        if run.state not in LIVING:
            return run
        if time.monotonic() > deadline:
            message = f"the run {plan.swarm} did not end in time: it is in round {run.round}"
            raise SwarmError(message)
        time.sleep(_LOOK_SECONDS)


def _wait_for_verdicts(crowd: CrowdProcesses, run: Run) -> None:
    """Give the last verdicts time to arrive: until nothing was received for two seconds."""
    deadline, before = time.monotonic() + _VERDICT_SECONDS, -1
    while run.round and time.monotonic() < deadline:
        now = sum(one.samples[-1].received for one in crowd.processes if one.samples)
        if now == before:
            return
        before = now
        time.sleep(2 * _LOOK_SECONDS)


def _cancel(cloud: SwarmCloud, name: str) -> None:
    """Cancel the run if it has not ended: its devices are about to disappear."""
    try:
        if cloud.operator.run(name).state in LIVING:
            cloud.operator.act("cancel", name)
    except (FedgrassError, ClientError, BotoCoreError) as error:
        if not isinstance(error, SettingsError):  # it was not started
            raise SwarmError(f"the run {name} could not be cancelled: {error}") from error  # noqa: EM102, TRY003


def _cloudwatch(cloud: SwarmCloud, since: float, until: float) -> dict[str, int]:
    try:
        return requests_in_cloudwatch(cloud.clients("cloudwatch"), cloud.outputs, since, until)
    except (ClientError, BotoCoreError):
        return {}


def _measured(  # noqa: PLR0913, PLR0917 - what was measured
    cloud: SwarmCloud,
    plan: SwarmPlan,
    run: Run,
    replies: Mapping[str, RoundReplies],
    samples: list[Sample],
    looks: list[Look],
    requests: Mapping[str, int],
    *,
    since: float,
    until: float,
    connect_seconds: float,
) -> Measured:
    marks = {one.thing: one.mark for one in cloud.things}
    rounds = []
    for record in cloud.operator.rounds(run):
        made = record.round.state is State.CLOSED and bool(record.round.model_sha256)
        mark = _mark(cloud, run.name, record.round.number) if made else None
        rounds.append(round_figures(record, replies, marks, mark))
    closed = [one for one in rounds if one.state == State.CLOSED]
    notes: list[str] = []
    functions = _functions(cloud, since, notes)
    counted = sum(one.replied for one in closed)
    seconds = sum(one.seconds for one in closed)
    load = load_between(
        looks,
        since,
        until,
        functions=functions,
        cores=os.cpu_count() or 1,
        processes=plan.processes,
        reply_concurrency=plan.reply_concurrency,
        train_share=sum(one.train_seconds for one in closed) / seconds if seconds else 0.0,
    )
    if not requests:
        notes.append(
            "requests to DynamoDB: CloudWatch shows them minutes later, or refuses these credentials"
        )
    last = samples[-1] if samples else Sample(at=until)
    if last.error:
        notes.append(f"the last error of a device: {last.error}")
    report = SwarmReport(
        swarm=plan.swarm,
        stack=cloud.stack,
        embedded=cloud.embedded,
        devices=len(cloud.things),
        run=run.name,
        state=run.state,
        reason=run.reason,
        megabytes=plan.habits.megabytes,
        connect_seconds=round(connect_seconds, 3),
        rounds=tuple(rounds),
        turnaround=percentiles([value for one in closed for value in one.turnarounds]),
        replies_sent=sum(one.completed for one in closed),
        replies_counted=counted,
        completions=sum(one.completions for one in closed),
        exact=bool(closed) and all(one.exact for one in closed),
        messages=message_rates(samples, since, until),
        functions=functions,
        dynamodb=dynamo_requests(requests, counted) if requests else None,
        load=load,
        bottleneck=bottleneck(load),
        churn=Churn(
            vanished=last.vanished,
            returned=last.returned,
            lost=last.lost,
            failed_transfers=last.failed_transfers,
            repeated=last.repeated,
        ),
        notes=tuple(notes),
    )
    return Measured(report, samples, looks)


def _mark(cloud: SwarmCloud, run: str, number: int) -> float:
    """Return the mark of a global model: an array of one value."""
    return float(np.asarray(weights.decode(cloud.operator.model(run, number))[MARK]).reshape(-1)[0])


def _functions(cloud: SwarmCloud, since: float, notes: list[str]) -> dict[str, FunctionTime]:
    if not cloud.embedded:
        time.sleep(_LOG_SECONDS)
    try:
        return function_time(cloud.clients("logs"), cloud.stack, since)
    except (ClientError, BotoCoreError) as error:
        notes.append(f"the functions' logs cannot be read: {error}")
        return {}
