"""Unit tests of uploads."""
