"""Tests that the defects of the systems that fedgrass replaces do not come back."""
