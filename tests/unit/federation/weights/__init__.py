"""Unit tests of weights files, layouts and data types."""
