"""Runs on the device: serves the newest global model of each task to the applications beside it."""
