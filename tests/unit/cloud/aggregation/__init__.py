"""Unit tests of how a round's updates become its model."""
