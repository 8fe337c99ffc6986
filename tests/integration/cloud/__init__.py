"""The embedded cloud and what is deployed into it."""
