"""Unit tests of the tracking of runs."""
