"""Tests of rounds of federated statistics."""
