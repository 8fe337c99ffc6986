"""What a hello drives: the open work of the device that said it, and runs that it can set going again."""

from cloud_functions.rounds import sweep
from cloud_functions.rounds.open_round import announce
from cloud_functions.selection import candidate_search
from cloud_functions.services import Cloud
from fedgrass.federation.rounds import Participation, Round, State
from fedgrass.federation.runs import Open, Run, next_step

_UNDONE = frozenset({Participation.ASKED, Participation.ACCEPTED})


def hear(cloud: Cloud, device: str) -> None:
    """Announce to a device that came (back) its open work, and wake the runs that it can help.

    Only living runs are read, and of each no more than its own row, its newest round and this device's part.
    """
    for run, newest in cloud.living_runs():
        if newest and newest.state is State.OPEN:
            part = cloud.rounds.participant(newest, device)
            if part and part.state in _UNDONE:
                announce(cloud, run, newest, [part])
                cloud.tell(newest, "announced again after its hello", device=device)
        if sweep.stands_still(run, newest, cloud.now()) or _waits_for(cloud, run, newest, device):
            sweep.wake(cloud, run)


def _waits_for(cloud: Cloud, run: Run, newest: Round | None, device: str) -> bool:
    """Return whether a run waits for a device to ask, and this one will do."""
    step = next_step(run, newest, cloud.now()) if run.waiting_since else None
    if not isinstance(step, Open):
        return False
    found = cloud.devices.find(device)
    return found is not None and candidate_search.requirements(cloud, run.settings, step.work).suits(found)
