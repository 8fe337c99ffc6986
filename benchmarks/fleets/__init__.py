"""Prepared tables of large fleets, for the benchmarks of the dashboard and of selection.

- dashboard_fleet: rows of devices and of a long run, and the messages of an open round
- dashboard_page: serves the dashboard over these rows and opens it in a browser
- selection_reads: a table of devices that counts what a selection reads
"""
