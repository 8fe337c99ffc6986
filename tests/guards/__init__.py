"""Tests that guard rules of the tree: template, recipes, package, defects of the replaced systems."""
