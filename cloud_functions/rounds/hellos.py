"""The hellos of devices that have (re)connected: announce their open work, wake runs that they can help."""

from cloud_functions.rounds import sweep
from cloud_functions.rounds.announce import announce
from cloud_functions.rounds.reminders import wake
from cloud_functions.selection import candidate_search
from cloud_functions.services import Services
from fedgrass.federation.rounds import Participation, Round, State
from fedgrass.federation.runs import Open, Run, next_step

_UNDONE = frozenset({Participation.ASKED, Participation.ACCEPTED})


def answer_hello(services: Services, device: str) -> None:
    """Announce to a device that has (re)connected its open work, and wake the runs that it can help.

    Reads only living runs, and of each only its own row, its newest round and this device's participation.
    """
    for run, round_ in services.living_runs():
        if round_ and round_.state is State.OPEN:
            participant = services.rounds.participant(round_, device)
            if participant and participant.state in _UNDONE:
                announce(services, run, round_, [participant])
                services.report(round_, "announced again after its hello", device=device)
        if sweep.is_stuck(run, round_, services.now()) or _waits_for(services, run, round_, device):
            wake(services, run)


def _waits_for(services: Services, run: Run, round_: Round | None, device: str) -> bool:
    """Return whether a run waits for a device to ask, and this device meets its requirements."""
    step = next_step(run, round_, services.now()) if run.waiting_since else None
    if not isinstance(step, Open):
        return False
    found = services.devices.find(device)
    return found is not None and candidate_search.requirements(services, run.settings, step.work).suits(found)
