"""The training of virtual devices: for real in worker processes, or by a given learning curve."""
