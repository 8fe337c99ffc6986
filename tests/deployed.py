"""The ``fedgrass`` command against an embedded cloud, and what is in that cloud's account."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import package
from fedgrass.local.aws.embedded_cloud import EmbeddedCloud


def fedgrass(cloud: EmbeddedCloud, folder: Path, *words: str) -> tuple[int, str]:
    """Run the command as a person would who has set AWS_ENDPOINT_URL; return its exit code and words."""
    done = subprocess.run(
        [sys.executable, "-m", "fedgrass.console.main", *words],
        cwd=folder,
        env={
            **cloud.environment(),
            "PATH": "/usr/bin:/bin",
            "HOME": str(folder),
            "TMPDIR": str(folder),
            "PYTHONPATH": str(package.ROOT),  # this checkout's command, whichever one is installed
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=110,
        check=False,
    )
    assert "Traceback" not in done.stdout, done.stdout
    return done.returncode, done.stdout


# Per kind of resource: service, paginated call, where its answer has the list, and what names an entry.
LISTS = (
    ("s3", "list_buckets", "Buckets", "Name"),
    ("dynamodb", "list_tables", "TableNames", ""),
    ("sqs", "list_queues", "QueueUrls", ""),
    ("lambda", "list_functions", "Functions", "FunctionName"),
    ("lambda", "list_event_source_mappings", "EventSourceMappings", "UUID"),
    ("iam", "list_roles", "Roles", "RoleName"),
    ("iot", "list_topic_rules", "rules", "ruleName"),
    ("iot", "list_policies", "policies", "policyName"),
    ("scheduler", "list_schedule_groups", "ScheduleGroups", "Name"),
    ("scheduler", "list_schedules", "Schedules", "Name"),
    ("logs", "describe_log_groups", "logGroups", "logGroupName"),
    ("cloudwatch", "describe_alarms", "MetricAlarms", "AlarmName"),
    ("cloudwatch", "list_dashboards", "DashboardEntries", "DashboardName"),
    ("sns", "list_topics", "Topics", "TopicArn"),
    ("sns", "list_subscriptions", "Subscriptions", "SubscriptionArn"),
)
STANDING = (
    "CREATE_COMPLETE",
    "REVIEW_IN_PROGRESS",
    "ROLLBACK_COMPLETE",
    "UPDATE_COMPLETE",
    "UPDATE_ROLLBACK_COMPLETE",
    "DELETE_FAILED",
)


def inventory(clients: Callable[[str], Any]) -> set[str]:
    """Return everything in the account that a stack, or deploying it, could have made."""
    return set(_inventory(clients))


def _inventory(clients: Callable[[str], Any]) -> Iterator[str]:
    for service, call, where, name in LISTS:
        client = clients(service)
        found = getattr(client, call)().get(where, [])
        yield from (f"{service} {call}: {entry[name] if name else entry}" for entry in found)
    for entry in clients("iam").list_policies(Scope="Local")["Policies"]:
        yield f"managed policy: {entry['PolicyName']}"
    cloudformation = clients("cloudformation")
    for stack in cloudformation.list_stacks(StackStatusFilter=list(STANDING))["StackSummaries"]:
        yield f"stack: {stack['StackName']} {stack['StackStatus']}"
        for change in cloudformation.list_change_sets(StackName=stack["StackName"])["Summaries"]:
            if change["ExecutionStatus"] == "AVAILABLE":  # executed ones are the stack's history
                yield f"change set: {change['ChangeSetName']}"
