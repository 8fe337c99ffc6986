"""Every error that fedgrass raises deliberately, and who has to act on it.

    FedgrassError
    ├── SettingsError       the operator: a run's settings, a name or an option is invalid
    ├── MessageError        the sender: a message cannot be accepted
    ├── UpdateRefused       the device: its weights must not enter the average
    ├── AggregationFailed   the strategy: it cannot produce a model from these updates
    ├── ReplyRefused        the device: a well-formed reply that the round cannot count
    │   └── LateReply       ... because the round has ended or is at another attempt
    ├── RunBehind           the table, restored from a backup: the run's row lacks existing rounds
    ├── LostRace            nobody: another worker moved the round first; read it again
    └── NotYet              nobody: another worker is doing the same work; retry later

Each message names the object, the value and the remedy; it is shown to operators unchanged.
"""


class FedgrassError(Exception):
    """Base class of all errors that fedgrass raises deliberately."""


class SettingsError(FedgrassError):
    """A setting or a name given by the operator is invalid."""


class MessageError(FedgrassError):
    """A message is too large, not JSON, of an unknown version, or lacks a required field."""


class UpdateRefused(FedgrassError):
    """An update must not enter the average: wrong arrays, wrong bytes, or non-finite values."""


class AggregationFailed(FedgrassError):
    """A strategy cannot produce a model from a round's updates: too few, missing metrics, or a bug in it."""


class ReplyRefused(FedgrassError):
    """A reply cannot be counted in the round that it names."""


class LateReply(ReplyRefused):
    """A reply to a round that has ended, or to an abandoned attempt."""


class RunBehind(FedgrassError):
    """The bucket or the table has a later history of a run than its row: repair the run first."""


class LostRace(FedgrassError):
    """A conditional write found that another worker had changed the record first."""


class NotYet(FedgrassError):
    """Another worker holds the lease of this aggregation: the message must be redelivered later."""
