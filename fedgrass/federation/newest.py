"""Which of two global models of a task is the newer: the cloud's pointer and the devices judge alike."""

from fedgrass.federation.messages import NewModel


def is_newer(model: NewModel, than: NewModel) -> bool:
    """Return whether ``model`` is newer than another.

    Of one run the later round has the newer model; of two runs, the round that closed later.
    """
    if model.run == than.run:
        return model.round > than.round
    return model.closed_at > than.closed_at
