"""Faults that tests and the command line inject into a running core."""
