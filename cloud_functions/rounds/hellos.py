"""The hellos of devices that have (re)connected: announce their open work, wake runs that they can help."""

from cloud_functions.buffers import flight
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
        if round_ and round_.in_flight:
            _announce_in_flight(services, run, round_, device)
        elif round_ and round_.state is State.OPEN:
            participant = services.rounds.participant(round_, device)
            if participant and participant.state in _UNDONE:
                announce(services, run, round_, [participant])
                services.report(round_, "announced again after its hello", device=device)
        if sweep.is_stuck(run, round_, services.now()) or _waits_for(services, run, round_, device):
            wake(services, run)


def _announce_in_flight(services: Services, run: Run, newest: Round, device: str) -> None:
    """Announce to a device of a buffered run the work that it has not finished, with its own deadline.

    It is the work that was announced to it, not the newest model: a device that has finished its training
    and is uploading the update would drop it for a newer announcement.
    """
    for announced, part in flight.work_of(services, run, newest, device):
        announce(services, run, announced, [part])
        services.report(announced, "announced again after its hello", device=device)


def _waits_for(services: Services, run: Run, round_: Round | None, device: str) -> bool:
    """Return whether a run waits for a device to ask, and this device meets its requirements."""
    step = next_step(run, round_, services.now()) if run.waiting_since else None
    if not isinstance(step, Open):
        return False
    found = services.devices.find(device)
    return found is not None and candidate_search.requirements(services, run.settings, step.work).suits(found)
