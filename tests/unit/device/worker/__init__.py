"""Unit tests of the worker: from an announcement to an update file."""
