"""Checks of the stack's alarms in CloudWatch."""

from collections.abc import Iterator

from fedgrass.console.doctor.health_report import Examined, Finding, good, problem, some

_ALARM = "AWS::CloudWatch::Alarm"
_REMEDY = "docs/operations.md has what to do about each alarm"
_DEPLOY = "`fedgrass deploy cloud` restores it"


def check_alarms(examined: Examined) -> Iterator[Finding]:
    """Check that the stack's alarms exist, and that no alarm is raised."""
    names = {real: name for name, (kind, real) in examined.resources.items() if kind == _ALARM}
    if not names:
        yield good("alarms", "the stack has none")
        return
    # A stack has far fewer alarms than one request may name.
    alarms = examined.clients("cloudwatch").describe_alarms(AlarmNames=list(names))["MetricAlarms"]
    found = {one["AlarmName"]: one for one in alarms}
    bad = [
        problem("alarms", f"the alarm {name} ({real}) is gone", _DEPLOY)
        for real, name in names.items()
        if real not in found
    ]
    for real, alarm in found.items():
        if alarm.get("StateValue") == "ALARM":
            what = alarm.get("AlarmDescription") or alarm.get("StateReason") or "no reason is given"
            bad.append(problem("alarms", f"{names[real]} is raised: {what}", _REMEDY))
    yield from bad or [good("alarms", f"none of {len(names)} is raised: {some(names.values())}")]
