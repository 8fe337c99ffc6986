"""Unit tests of the views of a run."""
