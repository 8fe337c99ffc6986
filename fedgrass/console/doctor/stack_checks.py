"""Checks of the stack: its state and version, its functions, topic rules and role alias."""

from collections.abc import Iterator

from fedgrass.console.doctor.health_report import Examined, Finding, good, note, problem, some

_DEPLOY = "`fedgrass deploy cloud` updates it"
_RULE = "AWS::IoT::TopicRule"


def check_stack(examined: Examined) -> Iterator[Finding]:
    """Check that the stack is deployed, complete, and of this version."""
    status = str(examined.described["StackStatus"])
    if status.endswith("_IN_PROGRESS"):
        yield note("stack", f"{examined.name} is {status}", "wait until its deployment has ended")
    elif "ROLLBACK" in status or status.endswith("_FAILED"):
        reason = (
            str(examined.described.get("StackStatusReason", "")) or "the events of the stack have the reason"
        )
        yield problem("stack", f"{examined.name} is {status}: {reason}", f"remove the cause; then {_DEPLOY}")
    else:
        yield good("stack", f"{examined.name} is {status}")
    outputs = examined.template["Outputs"]
    missing = [
        name for name, one in outputs.items() if "Condition" not in one and name not in examined.outputs
    ]
    missing += [
        name
        for name, one in examined.template["Resources"].items()
        if "Condition" not in one
        and examined.resources
        and name not in examined.resources
        and not one.get("Type", "").startswith("AWS::Serverless")
    ]
    if missing:
        yield problem("stack", f"it was deployed by another version: it has no {some(missing)}", _DEPLOY)


def check_functions(examined: Examined) -> Iterator[Finding]:
    """Check that the functions can be invoked."""
    functions = examined.clients("lambda")
    for name in ("InitiatorName", "AveragerName"):
        function = examined.outputs[name]
        found = functions.get_function_configuration(FunctionName=function)
        state, update = found.get("State", "Active"), found.get("LastUpdateStatus", "Successful")
        if state == "Failed" or update == "Failed":
            reason = found.get("StateReason") or found.get("LastUpdateStatusReason") or "no reason is given"
            yield problem("functions", f"{function} is {state}, its last update {update}: {reason}", _DEPLOY)
        else:
            yield good("functions", f"{function} is {state}, {found.get('MemorySize', '?')} MB")


def check_rules(examined: Examined) -> Iterator[Finding]:
    """Check that the topic rules exist, are enabled, and read the topics of this fleet."""
    fleet = examined.outputs["Fleet"]
    pages = examined.clients("iot").get_paginator("list_topic_rules").paginate()
    listed = {rule["ruleName"]: rule for page in pages for rule in page["rules"]}
    rules = {name: real for name, (kind, real) in examined.resources.items() if kind == _RULE}
    bad = list[Finding]()
    for name, real in rules.items():
        if real not in listed:
            bad.append(
                problem("topic rules", f"the rule {name} ({real}) is gone: its messages are lost", _DEPLOY)
            )
        elif listed[real].get("ruleDisabled"):
            enable = f"`aws iot enable-topic-rule --rule-name {real}`"
            bad.append(problem("topic rules", f"the rule {name} is disabled: its messages are lost", enable))
        elif not listed[real].get("topicPattern", f"fedgrass/{fleet}/").startswith(f"fedgrass/{fleet}/"):
            bad.append(problem("topic rules", f"the rule {name} reads no topics of fleet {fleet}", _DEPLOY))
    if not rules:
        bad.append(problem("topic rules", "the stack has none: no message of a device is processed", _DEPLOY))
    yield from bad or [good("topic rules", f"{len(rules)} are enabled")]


def check_role_alias(examined: Examined) -> Iterator[Finding]:
    """Check that the role alias leads to the role of the devices."""
    alias, role = examined.outputs.get("DeviceRoleAlias", ""), examined.outputs["DeviceRoleArn"]
    if not alias:
        yield note(
            "role alias",
            "the stack has none",
            "devices that get credentials need another one for DeviceRoleArn",
        )
        return
    found = examined.clients("iot").describe_role_alias(roleAlias=alias)["roleAliasDescription"]
    if found["roleArn"] != role:
        yield problem("role alias", f"{alias} leads to {found['roleArn']}, not to {role}", _DEPLOY)
    else:
        yield good("role alias", f"{alias} leads to the role of the devices")
