"""Unit tests of the components of tasks: their files, requirements and recipe, and their deployment."""
