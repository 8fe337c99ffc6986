"""Every error that fedgrass raises on purpose, and whose fault it is.

    FedgrassError
    ├── SettingsError       the operator's: a run's settings, a name, an option
    ├── MessageError        the sender's: a message that cannot be taken
    ├── UpdateRefused       the device's: weights that must not enter the average
    ├── AggregationFailed   the strategy's: it cannot make a model of these updates
    ├── ReplyRefused        the device's: a well-formed reply that the round cannot count
    │   └── LateReply       ... because its round is over or has moved on to another attempt
    ├── RunBehind           the table's, which was restored: the run's row lacks rounds that there are
    ├── LostRace            nobody's: another worker moved the round first; read it again
    └── NotYet              nobody's: the same work is under way elsewhere; try again later

The text of each says which thing, which value, and the way out; it is shown to people as it is.
"""


class FedgrassError(Exception):
    """The root of all errors that fedgrass raises on purpose."""


class SettingsError(FedgrassError):
    """A setting or a name that the operator gave cannot be used."""


class MessageError(FedgrassError):
    """A message is too large, no JSON, of an unknown version, or lacks what it must have."""


class UpdateRefused(FedgrassError):
    """An update must not enter the average: wrong arrays, wrong bytes, or values that are not finite."""


class AggregationFailed(FedgrassError):
    """A strategy cannot make a model of a round's updates: too few, too few metrics, or its own mistake."""


class ReplyRefused(FedgrassError):
    """A reply cannot be counted in the round that it names."""


class LateReply(ReplyRefused):
    """A reply to a round that is over, or to an attempt that was given up."""


class RunBehind(FedgrassError):
    """The bucket, or the table, has a later history of a run than its row: repair it before it goes on."""


class LostRace(FedgrassError):
    """A conditional write found that somebody else had moved the record first."""


class NotYet(FedgrassError):
    """Another worker holds the lease of this aggregation: the message has to come back later."""
