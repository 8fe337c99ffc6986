"""Tests of components/trainer/flower."""
