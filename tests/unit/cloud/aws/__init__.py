"""Unit tests of the AWS adapters."""
