"""Unit tests of runs and rounds, from the start to the publication."""
