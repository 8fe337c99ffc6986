"""The dashboard: a page in the browser that shows stacks live, and acts on their runs, devices and models.

Read in this order: ``fleet_views`` (the values that the page shows), ``fleet_state`` (one stack),
``fleet_book`` (what is known of it, and the messages of its topics), with ``fleet_runs``, ``fleet_cells``,
``fleet_devices`` and ``fleet_alarms``; ``fleet_reader`` (what is read next), ``fleet_reads`` (the tables, and
their budget). Then ``shown_stacks`` (the stacks that the options name), ``stack_models`` (the aliases of
their models), ``page_server`` (the address of the page, and its end) and ``page_security`` (hosts, origins,
token, headers); ``pages/`` has the page itself, made of NiceGUI's elements.
"""
