"""The data of the dashboard's page, and the page.

The data, without any user interface: ``stack_view`` (the types that the page reads), ``fleet_state``.
"""
