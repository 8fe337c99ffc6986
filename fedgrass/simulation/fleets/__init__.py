"""The virtual devices: their conditions, from distributions, from a trace, or learned from a real fleet.

condition_units.py       the kinds of values of conditions, with their units and limits
data_slices.py           which slice of the task's data each device has
device_availability.py   when devices are on
device_conditions.py     what one device is like
device_rounds.py         what the devices of a real fleet did
distribution_grammar.py  the texts of distributions, such as "lognormal(8 Mbit/s, 0.5)"
distributions.py         the distributions
fleet_attributes.py      attributes in heartbeats
fleet_drawing.py         the devices of a fleet, drawn from its spec
fleet_file.py            a fleet written to a file
fleet_learning.py        a fleet learned from a deployed stack
fleet_overview.py       a fleet in a few lines and in a picture
fleet_spec.py            the spec, and its file
fleet_trace.py           traces: the devices in a file
trace_files.py           CSV and Parquet
"""

from fedgrass.simulation.fleets.fleet_drawing import draw_fleet
from fedgrass.simulation.fleets.fleet_spec import FleetSpec, load_fleet

__all__ = ["FleetSpec", "draw_fleet", "load_fleet"]
