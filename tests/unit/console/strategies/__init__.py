"""Unit tests of deployments and their checks."""
