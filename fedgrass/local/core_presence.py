"""How a core of a fleet is found on this machine, by ``fedgrass core list``, ``inject`` and the rest."""

from __future__ import annotations

import logging

from fedgrass.local.control_server import ControlServer
from fedgrass.local.core_control import CoreControl, Outside
from fedgrass.local.core_errors import ControlError, NameTakenError
from fedgrass.local.fault_injection import FaultInjector
from fedgrass.local.nucleus import GreengrassCore
from fedgrass.local.profiles import Profile

_log = logging.getLogger(__name__)


class CorePresence:
    """A core's control socket, and the faults that are injected over it.

    Fleets have things of the same names, and several may run on one machine: the second ``device-1`` is found
    as ``device-1:2``. Methods belong to the core's event loop.
    """

    def __init__(self, core: GreengrassCore, profile: Profile, outside: Outside) -> None:
        self.faults = FaultInjector(core)
        self._thing = core.thing_name
        self._control = CoreControl(core, profile, self.faults, outside)
        self._server: ControlServer | None = None

    @property
    def name(self) -> str:
        """What the core is called on this machine; empty if it cannot be found."""
        return self._control.name if self._server else ""

    async def start(self) -> None:
        """Be found from now on. A core that cannot be, since there is no place for sockets, runs without."""
        try:
            self._server = await self._listen()
        except ControlError as exc:
            _log.warning("`fedgrass core` does not find core %s: %s", self._thing, exc)

    def ready(self) -> None:
        """The core is up: it may be asked for more than what it is."""
        self._control.is_ready = True

    async def stop(self) -> None:
        """Be found no more; faults under way end with the core. May be called again."""
        self.faults.close()
        if self._server:
            await self._server.stop()

    def release(self) -> None:
        """Let another core have the name, once this one is gone. May be called again."""
        if self._server:
            self._server.release()

    async def _listen(self) -> ControlServer:
        name, number = self._thing, 1
        while True:
            server = ControlServer(name, self._control.answer, _log)
            try:
                await server.start()
            except NameTakenError:
                number += 1
                name = f"{self._thing}:{number}"
            else:
                self._control.name = name
                return server
