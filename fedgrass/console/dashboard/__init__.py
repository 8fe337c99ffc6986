"""The dashboard: the data of a stack (``fleet_...``), kept up to date from its topics and few reads."""
