"""Tests of buffered runs."""
