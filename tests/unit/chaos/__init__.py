"""Unit tests of the fault-injection campaign itself."""
