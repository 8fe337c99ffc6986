"""What runs at the operator's terminal: the ``fedgrass`` command and what it shows."""
