"""Reports on runs: one HTML page with its pictures, and the comparison of several runs.

Read in this order: run_report (the page and its files), report_figures (what is collected of a run),
turnaround_rows (the turnarounds table), report_pictures; run_comparison for several runs.
"""
