"""Unit tests of the demo, the task checks and the embedded cloud."""
