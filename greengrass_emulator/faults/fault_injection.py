"""The faults that can be injected into a running core, by name, from a test or the command line."""

import asyncio

from greengrass_emulator.core.nucleus import GreengrassCore
from greengrass_emulator.emulator_errors import InjectionError
from greengrass_emulator.faults.fault_state import (
    BROKER_CUT,
    FAULTS,
    IPC_RESTART,
    SERVICES_DOWN,
    SILENT_SUBSCRIPTIONS,
    Fault,
)


class FaultInjector:
    """Injects and clears the faults of one core. Methods are called in the core's event loop."""

    def __init__(self, core: GreengrassCore) -> None:
        self._core = core
        self._ends: dict[str, asyncio.TimerHandle] = {}
        self._clearing: set[asyncio.Task[None]] = set()
        self.active: dict[str, int | None] = {}
        """The active faults with their amounts."""

    async def inject(self, name: str, amount: int | None = None, seconds: float | None = None) -> None:
        """Inject a fault, which lasts for ``seconds`` or until it is cleared.

        Args:
            name: a key of FAULTS.
            amount: for faults that have a measure.
            seconds: the duration; None: until ``clear``.

        Raises:
            InjectionError: the fault is unknown, or the amount or the duration is not valid for it.
        """
        fault = _fault(name)
        value = _amount(name, fault, amount)
        if seconds is not None and not (fault.lasts and seconds > 0):
            message = f"fault {name} cannot last {seconds:g} s: " + (
                "a duration is above 0" if fault.lasts else "it happens once"
            )
            raise InjectionError(message)
        if name == SILENT_SUBSCRIPTIONS:
            await self._core.kill_subscriptions()
        elif name == IPC_RESTART:
            await self._core.restart_ipc_daemon()
        elif name == BROKER_CUT:
            await self._core.cut_mqtt()
        elif name in SERVICES_DOWN:
            if name not in self.active:
                await self._core.interrupt_service(SERVICES_DOWN[name])
        else:
            setattr(self._core.faults, fault.field, True if value is None else value)
        if fault.lasts:
            self.active[name] = value
            self._end_after(name, seconds)

    async def clear(self, name: str) -> None:
        """Clear a fault, active or not. Raises InjectionError for one that cannot be cleared."""
        fault = _fault(name)
        if not fault.lasts:
            message = f"fault {name} happens once: there is nothing to clear"
            raise InjectionError(message)
        self._cancel_end(name)
        was_active = name in self.active
        self.active.pop(name, None)
        if name == BROKER_CUT:
            await self._core.restore_mqtt()
        elif name in SERVICES_DOWN:
            if was_active:
                await self._core.resume_service(SERVICES_DOWN[name])
        else:
            setattr(self._core.faults, fault.field, None if fault.unit else False)

    def close(self) -> None:
        """Cancel the scheduled ends of faults: the core stops."""
        for name in list(self._ends):
            self._cancel_end(name)
        for task in self._clearing:
            task.cancel()

    def _end_after(self, name: str, seconds: float | None) -> None:
        self._cancel_end(name)
        if seconds is not None:
            self._ends[name] = asyncio.get_running_loop().call_later(seconds, self._end, name)

    def _end(self, name: str) -> None:
        task = asyncio.create_task(self.clear(name))
        self._clearing.add(task)
        task.add_done_callback(self._clearing.discard)

    def _cancel_end(self, name: str) -> None:
        if timer := self._ends.pop(name, None):
            timer.cancel()


def _fault(name: str) -> Fault:
    try:
        return FAULTS[name]
    except KeyError:
        message = f"there is no fault {name!r}: choose one of {', '.join(FAULTS)}"
        raise InjectionError(message) from None


def _amount(name: str, fault: Fault, amount: int | None) -> int | None:
    if not fault.unit:
        if amount is not None:
            message = f"fault {name} has no amount, it was given {amount}"
            raise InjectionError(message)
        return None
    value = fault.default if amount is None else amount
    if value is None or not fault.least <= value <= fault.largest:
        given = "" if value is None else f", not {value}"
        message = f"fault {name} needs an amount in {fault.unit}, {fault.least} or more{given}"
        raise InjectionError(message)
    return value
