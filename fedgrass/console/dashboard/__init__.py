"""The dashboard: what is known of a stack, and the page that shows it.

Read in this order: ``fleet_views`` (the values that a page shows), ``fleet_state`` (one stack),
``fleet_book`` (what is known of it, and the messages of its topics), with ``fleet_runs``, ``fleet_cells``,
``fleet_devices`` and ``fleet_alarms``; ``fleet_reader`` (what is read next), ``fleet_reads`` (the tables).
"""
