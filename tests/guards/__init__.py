"""Tests that guard rules of the tree: template, recipes, packages, defects of the replaced systems."""
