"""The options of ``fedgrass deploy devices``. Imported to parse the command line: see command_line.py."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter, Token

from fedgrass.console.command_line import number_between, parse_number, whole_number

_RESOURCES, _ROLL_OUT = "Resources of the components on a device", "Roll-out to the devices"
_WATCH_MINUTES = 30.0


def _minutes(_: type, tokens: Sequence[Token]) -> tuple[float, ...]:
    return tuple(parse_number(token.value, 0.1, 10_080) for token in tokens)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """What is deployed, to which devices, and how. Without ``thing`` and ``options_table``, to a group."""

    group: Annotated[str, Parameter(help="thing group of the devices", metavar="NAME")] = ""
    thing: Annotated[
        tuple[str, ...],
        Parameter(help="a single thing, for its own options of tasks; may be repeated", metavar="NAME"),
    ] = ()
    option: Annotated[
        tuple[str, ...],
        Parameter(
            help="an option of a task, such as digits.share=3, of the group or of the things; for a thing, an"
            " empty value removes it",
            metavar="TASK.OPTION=VALUE",
        ),
    ] = ()
    options_table: Annotated[
        Path | None,
        Parameter(
            help="CSV file in UTF-8 with options of many things: a first line thing,option,value, then rows"
            " such as press-1,digits.share,3; an empty value removes the option",
            metavar="FILE",
        ),
    ] = None
    component: Annotated[
        tuple[str, ...],
        Parameter(
            help="trainer, predictor or a full name; the latest version if none is given (trainer)",
            metavar="NAME[=VERSION]",
        ),
    ] = ()
    task: Annotated[
        tuple[str, ...],
        Parameter(
            help="a task that `fedgrass task publish` has published, or flower:NAME of `fedgrass flower add`;"
            " the latest version if none is given",
            metavar="NAME[=VERSION]",
        ),
    ] = ()
    configuration: Annotated[
        Path | None,
        Parameter(
            help="YAML or JSON to merge into the configuration, per component: {trainer: {threads: 2}}",
            metavar="FILE",
        ),
    ] = None
    reset: Annotated[
        tuple[str, ...],
        Parameter(
            help="reset a value of a component's configuration to its default, such as trainer:/tasks/mnist",
            metavar="NAME:/KEY",
        ),
    ] = ()
    unchecked: Annotated[
        bool, Parameter(help="deploy a configuration even if this version's components would refuse it")
    ] = False
    remove: Annotated[
        bool, Parameter(help="remove the components, or all options of the things, instead")
    ] = False
    again: Annotated[
        bool,
        Parameter(
            help="send the deployment again even if nothing changes; of single things, to those where it"
            " failed"
        ),
    ] = False
    name: Annotated[str, Parameter(help="name of the deployment", metavar="NAME")] = ""
    user: Annotated[
        str | None,
        Parameter(
            help="user that runs them (the default of the nucleus)", metavar="USER[:GROUP]", group=_RESOURCES
        ),
    ] = None
    cpus: Annotated[
        float | None,
        number_between(0.01, 1024, "limit of processor time, in cores (no limit)", group=_RESOURCES),
    ] = None
    memory_megabytes: Annotated[
        int | None, whole_number(1, 1024**2, "limit of memory (no limit)", group=_RESOURCES)
    ] = None
    rate: Annotated[
        int | None,
        whole_number(
            1,
            1000,
            "devices per minute, 1 to 1000 (all at once; 60 for --thing and --options-table)",
            group=_ROLL_OUT,
        ),
    ] = None
    at_once: Annotated[
        int,
        whole_number(
            0,
            1_000_000,
            "with --options-table: things whose deployment may be unfinished at a time (no limit)",
            group=_ROLL_OUT,
            show_default=False,
        ),
    ] = 0
    timeout_minutes: Annotated[
        int | None,
        whole_number(1, 10080, "time after which a device counts as failed (none)", group=_ROLL_OUT),
    ] = None
    abort_percent: Annotated[
        float | None,
        number_between(
            0.01, 100, "percentage of failed devices that ends the roll-out (none)", group=_ROLL_OUT
        ),
    ] = None
    on_failure: Annotated[
        Literal["ROLLBACK", "DO_NOTHING"] | None,
        Parameter(help="what a device does if the deployment fails (ROLLBACK)", group=_ROLL_OUT),
    ] = None
    update_seconds: Annotated[
        int | None,
        whole_number(
            1, 7 * 24 * 3600, "time by which a component may delay its update (60)", group=_ROLL_OUT
        ),
    ] = None
    dry_run: Annotated[bool, Parameter(help="only print what would change")] = False
    watch: Annotated[
        tuple[float, ...] | None,
        Parameter(
            converter=_minutes,
            help="follow the progress, for 30 minutes if none are given",
            consume_multiple=(0, 1),
            metavar="[MINUTES]",
        ),
    ] = None

    @property
    def watch_minutes(self) -> float | None:
        """How long to follow the progress; None: not at all."""
        if self.watch is None:
            return None
        return self.watch[0] if self.watch else _WATCH_MINUTES
