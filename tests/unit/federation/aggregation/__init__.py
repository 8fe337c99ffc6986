"""Unit tests of the aggregation strategies."""
