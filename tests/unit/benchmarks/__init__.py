"""Unit tests of the benchmarks, whose figures are in the pages."""
