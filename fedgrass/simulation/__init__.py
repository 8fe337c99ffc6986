"""Simulations: the real round machine over a virtual fleet, on one machine and in virtual time.

The cloud functions, the run's settings and the task are those of a real run. Only the ports are in memory,
and time jumps from one due event to the next. ``fleets`` has the conditions of the devices, ``clients``
trains their updates, ``grids`` runs many simulations.
"""
