"""Unit tests of cloud_functions, over ports in memory."""
