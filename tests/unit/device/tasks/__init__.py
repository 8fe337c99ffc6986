"""Unit tests of the built-in tasks and of how tasks are loaded."""
