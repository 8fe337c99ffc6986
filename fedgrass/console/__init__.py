"""The ``fedgrass`` command, as the operator runs it in a terminal.

main.py           the command line and its errors
options.py        the options and input files that commands share
terminal.py       all output: lines, tables, errors
interruption.py   Ctrl-C, SIGTERM and a closed terminal
stack.py          the deployed stack: its outputs and AWS clients
greengrass_cloud.py   Greengrass in an AWS account: groups, component versions, deployments
commands/         one module per command group
deploy/           the fleet's stack, components and their deployments
provisioning/     things, certificates and the files of a core device
runs/             start runs, follow them, show what they did
"""

from fedgrass.sources import add_to_path

add_to_path()
