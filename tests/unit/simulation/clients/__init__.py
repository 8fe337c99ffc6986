"""Unit tests of the training of virtual devices."""
