"""Measurements. Each module is a program, takes --quick (under a minute), and ends with a line of JSON."""
