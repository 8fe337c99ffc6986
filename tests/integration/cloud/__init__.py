"""Tests of the embedded cloud, and of what is deployed to it."""
