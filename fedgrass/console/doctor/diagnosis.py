"""Carry out ``fedgrass doctor``: run all checks, and show what they found.

A check that AWS refuses, or that the embedded cloud does not know, is reported as unknown; the others go on.
"""

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator

from fedgrass.console import stack
from fedgrass.console.aws_clients import Clients
from fedgrass.console.doctor.account_checks import check_credentials, check_quotas
from fedgrass.console.doctor.alarm_checks import check_alarms
from fedgrass.console.doctor.data_checks import check_bucket, check_dead_letters
from fedgrass.console.doctor.device_checks import check_devices
from fedgrass.console.doctor.health_report import (
    Check,
    Examined,
    Finding,
    HealthReport,
    problem,
    unknown,
)
from fedgrass.console.doctor.stack_checks import check_functions, check_role_alias, check_rules, check_stack
from fedgrass.console.results import show_result
from fedgrass.console.terminal import say

CHECKS: dict[str, Check] = {
    "stack": check_stack,
    "functions": check_functions,
    "quotas": check_quotas,
    "topic rules": check_rules,
    "role alias": check_role_alias,
    "bucket": check_bucket,
    "dead letters": check_dead_letters,
    "alarms": check_alarms,
    "devices": check_devices,
}


def diagnose(*, certificates: int, stack_name: str, output: str) -> None:
    """Examine a stack, and show the findings; exit with code 1 if there are problems.

    Args:
        certificates: of how many devices the certificates are read.
        stack_name: CloudFormation stack of the fleet.
        output: ``text`` or ``json``.
    """
    report = examine(stack.client, stack_name, certificates, lambda: time.time_ns() // 1_000_000)
    show_result(report, output, _draw)
    if report.problems:
        sys.exit(1)


def examine(clients: Clients, name: str, certificates: int, clock: Callable[[], int]) -> HealthReport:
    """Return the findings of all checks; ``clock`` returns milliseconds since the epoch."""
    region, examined = "", Examined(clients, name, clock(), certificates)
    findings = list(_findings("credentials", check_credentials, examined))
    if not any(one.state == "problem" and one.check == "credentials" for one in findings):
        try:
            formation = clients("cloudformation")
            region = formation.meta.region_name
            described = formation.describe_stacks(StackName=name)["Stacks"][0]
        except Exception as error:
            if not stack.is_aws_error(error):
                raise
            findings.append(_no_stack(name, f"the stack {name!r} in {region} cannot be read: {_line(error)}"))
        else:
            findings += _all_findings(dataclasses.replace(examined, described=described))
    return HealthReport(
        stack=name,
        region=region,
        checked_at=clock(),
        findings=findings,
        count=len(findings),
        problems=sum(one.state == "problem" for one in findings),
    )


def _all_findings(examined: Examined) -> Iterator[Finding]:
    if "InitiatorName" not in examined.outputs:
        yield _no_stack(examined.name, f"the stack {examined.name!r} was not deployed by fedgrass")
        return
    for title, check in CHECKS.items():
        yield from _findings(title, check, examined)


def _no_stack(name: str, text: str) -> Finding:
    remedy = f"choose --stack, --region or --profile, or deploy {name} by `fedgrass deploy cloud`"
    return problem("stack", text, remedy)


def _findings(title: str, check: Check, examined: Examined) -> Iterator[Finding]:
    """Yield the findings of a check; an error of AWS ends it with one more."""
    try:
        yield from check(examined)
    except Exception as error:
        if not stack.is_aws_error(error):
            raise
        if title == "credentials":
            remedy = "set AWS_PROFILE (or --profile), or renew the credentials, such as by `aws sso login`"
            yield problem(title, f"AWS cannot be used: {_line(error)}", remedy)
        else:
            remedy = "let these credentials read it, if the error is about access"
            yield unknown(title, f"it cannot be checked: {_line(error)}", remedy)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _draw(report: HealthReport) -> None:
    for one in report.findings:
        say(f"{one.state:8} {one.check}: {one.text}")
        if one.remedy:
            say(f"         to do: {one.remedy}")
    say(
        f"{report.count} finding{'' if report.count == 1 else 's'} about {report.stack} in"
        f" {report.region or 'an unknown region'}:"
        f" {report.problems} problem{'' if report.problems == 1 else 's'}"
    )
