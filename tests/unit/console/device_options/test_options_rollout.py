"""The roll-out of options to many things: its rate, its limits, its failures, and how it is continued."""

from collections.abc import Callable
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from components.runtime.device_options import COMPONENT
from fedgrass.console.device_options.options_plan import Revision
from fedgrass.console.device_options.options_rollout import WATCH_SECONDS, Rollout
from fedgrass.console.greengrass_cloud import Account, DeploymentError, GreengrassCloud
from tests.fakes.memory_greengrass import MemoryGreengrass
from tests.unit.console.device_options.conftest import trainer

Run = Callable[..., None]


class Clock:
    """Time that passes only while something sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.each: Callable[[float], None] = lambda _seconds: None

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.each(seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def rollout(cloud: MemoryGreengrass, clock: Clock, said: list[str] | None = None, **limits: float) -> Rollout:
    greengrass = GreengrassCloud(cloud.client, Account(cloud.client))
    report = said.append if said is not None else lambda _: None
    return Rollout(greengrass, report, sleep=clock.sleep, clock=clock, **limits)  # type: ignore[arg-type] # numbers


def revisions(cloud: MemoryGreengrass, count: int) -> list[Revision]:
    cloud.versions[COMPONENT] = ["1.0.0"]
    components = {COMPONENT: {"componentVersion": "1.0.0"}}
    names = [f"press-{number}" for number in range(count)]
    return [
        Revision(
            name=name, arguments={"targetArn": cloud.thing_arn(name), "components": components}, changes=()
        )
        for name in names
    ]


def test_deployments_are_created_at_the_rate(cloud: MemoryGreengrass, clock: Clock) -> None:
    said: list[str] = []
    rollout(cloud, clock, said, per_minute=120).run(revisions(cloud, 250))
    assert len(cloud.latest) == 1 + 250
    assert clock.now == pytest.approx(249 * 0.5)
    assert said == ["created 100 of 250 deployments", "created 200 of 250 deployments"]


def test_at_most_as_many_are_unfinished_at_a_time_as_asked(cloud: MemoryGreengrass, clock: Clock) -> None:
    done: set[str] = set()
    most = 0

    def finish_one(seconds: float) -> None:
        nonlocal most
        if seconds < WATCH_SECONDS:
            return
        created = {target.rpartition("/")[2] for target in cloud.latest if ":thing/" in target}
        most = max(most, len(created - done))
        done.update(sorted(created - done)[:1])

    clock.each = finish_one
    cloud.finishes = lambda thing: "COMPLETED" if thing in done else "ACTIVE"
    rollout(cloud, clock, per_minute=60_000, at_once=3).run(revisions(cloud, 12))
    assert most == 3
    assert len(cloud.latest) == 1 + 12


def test_too_many_failures_end_the_roll_out(cloud: MemoryGreengrass, clock: Clock) -> None:
    cloud.finishes = lambda thing: "FAILED" if thing in {"press-0", "press-1"} else "COMPLETED"
    with pytest.raises(DeploymentError, match=r"2 of 4 finished deployments failed.*stopped after 4 of 12"):
        rollout(cloud, clock, at_once=4, abort_percent=20).run(revisions(cloud, 12))
    assert len(cloud.latest) == 1 + 4


def test_a_throttled_request_is_repeated_and_then_given_up_with_the_way_on(
    cloud: MemoryGreengrass, clock: Clock
) -> None:
    cloud.refusals["CreateDeployment"] = ["ThrottlingException"] * 3
    rollout(cloud, clock).run(revisions(cloud, 2))
    assert len(cloud.latest) == 1 + 2
    cloud.refusals["CreateDeployment"] = ["LimitExceededException"] * 100
    with pytest.raises(DeploymentError, match=r"LimitExceededException\).*repeat the command to continue"):
        rollout(cloud, clock).run(revisions(cloud, 2))


def test_one_refused_deployment_does_not_stop_the_others(cloud: MemoryGreengrass, clock: Clock) -> None:
    cloud.refusals["CreateDeployment"] = ["ValidationException"]
    with pytest.raises(DeploymentError, match="1 of 3 deployments were refused, among them that of press-0"):
        rollout(cloud, clock).run(revisions(cloud, 3))
    assert len(cloud.latest) == 1 + 2


def test_other_errors_are_not_hidden(cloud: MemoryGreengrass, clock: Clock) -> None:
    cloud.refusals["CreateDeployment"] = ["AccessDeniedException"]
    with pytest.raises(ClientError, match="AccessDenied"):
        rollout(cloud, clock).run(revisions(cloud, 3))


def test_watching_ends_with_the_last_device_or_the_time(cloud: MemoryGreengrass, clock: Clock) -> None:
    said: list[str] = []
    running = rollout(cloud, clock, said)
    running.run(revisions(cloud, 2))
    cloud.finishes = lambda _thing: "COMPLETED" if clock.now > 60 else "ACTIVE"
    assert running.watch(3600).succeeded == 2
    assert said == [
        "0 succeeded, 0 failed, 2 in progress",
        "2 succeeded, 0 failed, 0 in progress",
    ]
    cloud.finishes = lambda _thing: "ACTIVE"
    running = rollout(cloud, clock, said)
    running.run(revisions(cloud, 2))
    assert running.watch(60).in_progress == 2
    assert said[-1] == "devices that are offline receive their options when they reconnect"


@pytest.mark.slow
def test_3000_things_are_planned_with_few_requests_and_continued_where_it_was_interrupted(
    cloud: MemoryGreengrass, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    things = [f"lathe-{number:04}" for number in range(3000)]
    cloud.add_group("lathes", set(things), trainer(tasks={"digits": {"shares": 3000}}))
    file = tmp_path / "devices.csv"
    file.write_text("thing,option,value\n" + "".join(f"{t},digits.share,{n}\n" for n, t in enumerate(things)))
    run("--options-table", str(file), "--dry-run")
    assert cloud.calls["ListThingGroupsForThing"] == 1
    assert sum(cloud.calls.values()) < 60
    assert len(capsys.readouterr().out.splitlines()) < 200, "a plan for people"

    first = dict(cloud.deployments)
    create, created = cloud._CreateDeployment, list[object]()

    def until_interrupted(**given: object) -> dict[str, object] | None:
        if len(created) == 1000:
            raise KeyboardInterrupt
        created.append(given)
        return create(**given)

    cloud._CreateDeployment = until_interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        run("--options-table", str(file))
    assert "interrupted: repeat the command to continue" in capsys.readouterr().out
    assert len(cloud.deployments) == len(first) + 1000
    cloud._CreateDeployment = create  # type: ignore[method-assign]
    run("--options-table", str(file), "--watch", "1")
    said = capsys.readouterr().out
    assert "things that change: 2,001; up to date: 999" in said
    assert said.endswith("2,001 succeeded, 0 failed, 0 in progress\n")
    assert len(cloud.deployments) == len(first) + 3001, "each thing once, and the group"
    run("--options-table", str(file))
    assert capsys.readouterr().out.endswith("things that change: 0; up to date: 3,000\n")
