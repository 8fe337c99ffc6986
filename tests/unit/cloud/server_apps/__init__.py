"""Unit tests of runs that a ServerApp drives."""
