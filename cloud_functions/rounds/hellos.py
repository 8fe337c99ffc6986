"""The hellos of devices that have (re)connected: announce their open work, wake runs that they can help."""

import contextlib

from cloud_functions.buffers import flight
from cloud_functions.rounds import sweep
from cloud_functions.rounds.announce import announce, announce_again
from cloud_functions.rounds.reminders import wake
from cloud_functions.selection import candidate_search
from cloud_functions.server_apps import message_rounds
from cloud_functions.services import Services
from fedgrass.federation.errors import LostRace
from fedgrass.federation.rounds import AT_WORK, Round, State
from fedgrass.federation.runs import Open, Run, next_step


def answer_hello(services: Services, device: str) -> None:
    """Announce to a device that has (re)connected its open work, and wake the runs that it can help.

    Reads only living runs, and of each only its own row, its newest round and this device's participation.
    """
    for run, round_ in services.living_runs():
        if run.settings.has_server_app:
            _announce_messages(services, run, device)
            continue
        if round_ and round_.in_flight:
            if not _announce_in_flight(services, run, round_, device):
                _search_again(services, run, round_, device)
        elif round_ and round_.state is State.OPEN:
            participant = services.rounds.participant(round_, device)
            if participant and participant.state in AT_WORK:
                announce(services, run, round_, [participant])
                services.report(round_, "announced again after its hello", device=device)
        if sweep.is_stuck(run, round_, services.now()) or _waits_for(services, run, round_, device):
            wake(services, run)


def _announce_messages(services: Services, run: Run, device: str) -> None:
    """Announce to a device the messages of a ServerApp that it has not answered; wake a run that is stuck."""
    rounds = list(services.unpublished(run))
    for round_ in rounds:
        participant = services.rounds.participant(round_, device) if round_.state is State.OPEN else None
        undone = participant and participant.state in AT_WORK
        if participant and undone and announce_again(services, run, round_, [participant]):
            services.report(round_, "announced again after its hello", device=device)
    if message_rounds.is_stuck(run, rounds, services.now()):
        wake(services, run)


def _announce_in_flight(services: Services, run: Run, newest: Round, device: str) -> bool:
    """Announce to a device of a buffered run the work that it has not finished, with its own deadline.

    It is the work that was announced to it, not the newest model: a device that has finished its training
    and is uploading the update would drop it for a newer announcement.

    Returns:
        Whether the device has unfinished work.
    """
    undone = list(flight.work_of(services, run, newest, device))
    for announced, part in undone:
        announce(services, run, announced, [part])
        services.report(announced, "announced again after its hello", device=device)
    return bool(undone)


def _search_again(services: Services, run: Run, buffer: Round, device: str) -> None:
    """Have a buffer search for devices again that lacks some, if this device is one that it may ask."""
    lacks = buffer.state is State.OPEN and buffer.unfilled and buffer.outstanding < buffer.in_flight
    if not lacks or services.rounds.participant(buffer, device):
        return
    found = services.devices.find(device)
    if found and candidate_search.requirements(services, run.settings).suits(found):
        with contextlib.suppress(LostRace):  # another worker fills it
            services.rounds.fill(buffer, [], unfilled=0, at=services.now())
            wake(services, run)


def _waits_for(services: Services, run: Run, round_: Round | None, device: str) -> bool:
    """Return whether a run waits for a device to ask, and this device meets its requirements."""
    step = next_step(run, round_, services.now()) if run.waiting_since else None
    if not isinstance(step, Open):
        return False
    found = services.devices.find(device)
    return found is not None and candidate_search.requirements(services, run.settings, step.work).suits(found)
