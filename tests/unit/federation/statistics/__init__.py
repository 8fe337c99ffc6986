"""Unit tests of federated statistics."""
