"""What a hello drives: the open work of the device that said it, and runs that it can set going again."""

from cloud_functions.rounds import sweep
from cloud_functions.rounds.open_round import announce
from cloud_functions.selection import candidate_search
from cloud_functions.services import Services
from fedgrass.federation.rounds import Participation, Round, State
from fedgrass.federation.runs import Open, Run, next_step

_UNDONE = frozenset({Participation.ASKED, Participation.ACCEPTED})


def hear(services: Services, device: str) -> None:
    """Announce to a device that came (back) its open work, and wake the runs that it can help.

    Only living runs are read, and of each no more than its own row, its newest round and this device's part.
    """
    for run, newest in services.living_runs():
        if newest and newest.state is State.OPEN:
            part = services.rounds.participant(newest, device)
            if part and part.state in _UNDONE:
                announce(services, run, newest, [part])
                services.tell(newest, "announced again after its hello", device=device)
        if sweep.stands_still(run, newest, services.now()) or _waits_for(services, run, newest, device):
            sweep.wake(services, run)


def _waits_for(services: Services, run: Run, newest: Round | None, device: str) -> bool:
    """Return whether a run waits for a device to ask, and this one will do."""
    step = next_step(run, newest, services.now()) if run.waiting_since else None
    if not isinstance(step, Open):
        return False
    found = services.devices.find(device)
    return found is not None and candidate_search.requirements(services, run.settings, step.work).suits(found)
