"""Simulations with worker processes that train."""
