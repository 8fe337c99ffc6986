"""The virtual devices: their conditions, from distributions, from a trace, or learned from a real fleet."""
