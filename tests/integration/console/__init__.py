"""Tests of the fedgrass command with the embedded cloud."""
