"""Checks of the operator's side: credentials, the clock of this machine, the account's quotas."""

from collections.abc import Iterator
from email.utils import parsedate_to_datetime

from fedgrass.console.deploy.deployment_checks import most_concurrent
from fedgrass.console.doctor.health_report import Examined, Finding, good, note, problem, unknown

_SKEW_SECONDS = 60  # that is worth a note
_LARGEST_SKEW_SECONDS = 240  # AWS refuses requests from 5 minutes on, S3 from 15


def check_credentials(examined: Examined) -> Iterator[Finding]:
    """Check whose credentials are used, and compare this machine's clock with that of AWS."""
    answer = examined.clients("sts").get_caller_identity()
    yield good("credentials", f"account {answer['Account']}, {answer['Arn']}")
    sent = answer["ResponseMetadata"].get("HTTPHeaders", {}).get("date", "")
    try:
        skew = examined.now / 1000 - parsedate_to_datetime(sent).timestamp()
    except (TypeError, ValueError):
        yield unknown("clock", "the response of AWS has no date to compare this machine's clock with", "")
        return
    text = f"this machine's clock differs from that of AWS by {abs(round(skew))} s"
    remedy = "synchronize it by NTP (`timedatectl set-ntp true`): AWS refuses requests with a wrong time"
    if abs(skew) > _LARGEST_SKEW_SECONDS:
        yield problem("clock", text, remedy)
    elif abs(skew) > _SKEW_SECONDS:
        yield note("clock", text, remedy)
    else:
        yield good("clock", text)


def check_quotas(examined: Examined) -> Iterator[Finding]:
    """Check that the account's quota of concurrent functions suffices for what the queues start."""
    limits = examined.clients("lambda").get_account_settings()["AccountLimit"]
    defaults = {name: str(one.get("Default", "")) for name, one in examined.template["Parameters"].items()}
    started = most_concurrent(examined.template, {**defaults, **examined.parameters})
    most = limits["ConcurrentExecutions"]
    text = f"the account allows {most:,} concurrent functions, and the stack's queues start up to {started}"
    if most < started:
        more = "request a larger quota (Service Quotas, `Concurrent executions` of Lambda)"
        yield note("quotas", f"{text}: rounds of many devices take longer", more)
    else:
        yield good("quotas", text)
