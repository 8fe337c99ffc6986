"""Tests of what trainer and predictor share."""
