"""Unit tests of the fedgrass command."""
