"""What runs at the operator's terminal: the ``fedgrass`` command and what it shows."""

from fedgrass.sources import add_to_path

add_to_path()
