"""The part of a simulation that describes its fleet, as the file of ``fedgrass simulate --fleet`` has it."""

from msgspec import Struct

Distribution = float | str  # a number, or a distribution such as "lognormal(10, 0.5)"


class FleetSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Distributions from which the conditions of each device are drawn, or the file of a trace.

    Attributes:
        trace: CSV or Parquet file with a row per device; it takes the place of all distributions.
    """

    trace: str = ""
