"""``fedgrass doctor``: its options. See doctor/diagnosis.py."""

from typing import Annotated

from fedgrass.console.command_line import ON_STACK, Output, StackOptions, whole_number
from fedgrass.console.deferred import deferred

_DIAGNOSE = deferred("fedgrass.console.doctor.diagnosis:diagnose")


def doctor(
    *,
    certificates: Annotated[int, whole_number(0, 100_000)] = 100,
    access: StackOptions = ON_STACK,
    output: Output = "text",
) -> None:
    """Examine a stack and its devices, and say what to do about each problem.

    It checks credentials, clock, quotas, the stack, its functions, topic rules, role alias, bucket, dead
    letters and alarms, and the devices' heartbeats, versions, problems and certificates. It changes nothing.
    The exit code is 1 if there are problems.

    Args:
        certificates: of how many devices the certificates are read, two requests each.
    """
    access.use()
    _DIAGNOSE(certificates=certificates, stack_name=access.stack, output=output)
