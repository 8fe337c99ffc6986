"""The jobs that averagers hand to each other: sums of groups, and shards of a model."""

import contextlib

from cloud_functions import averaging, coordinator, groups, shards
from cloud_functions.cloud import Cloud
from fedgrass.federation.division import Job
from fedgrass.federation.errors import LostRace, NotYet
from fedgrass.federation.rounds import State

_TRIES = 5  # at a job while others move its round


def work(cloud: Cloud, job: Job) -> None:
    """Do a job, and drive the run on if it ended the round.

    Raises:
        NotYet: the round is being moved by others all the time; the message has to come back.
    """
    for _ in range(_TRIES):
        try:
            (groups.add_up if job.kind == "group" else shards.make)(cloud, job)
        except LostRace:
            continue
        except NotYet:
            raise
        except Exception as error:
            _note_failure(cloud, job, error)
            raise
        break
    else:
        message = f"{job.kind} {job.number} of round {job.round} of run {job.run}: others move the round"
        raise NotYet(message)
    if job.kind == "shard":
        with contextlib.suppress(NotYet):  # other shards are still being made
            coordinator.advance(cloud, job.run)


def _note_failure(cloud: Cloud, job: Job, error: Exception) -> None:
    """Note why a shard cannot be made; of a group that is not summed, the updates are read later."""
    current = cloud.rounds.round(job.run, job.round, job.attempt)
    if current and current.state is State.AGGREGATING and job.kind == "shard":
        averaging.note_failure(cloud, current, error)
