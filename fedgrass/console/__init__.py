"""The ``fedgrass`` command, which operators run in a terminal.

main.py               the command line as a whole: its commands, and how errors are printed
command_line.py       what commands share: their apps, the options for the stack, the form of the output
options.py            input files and KEY=VALUE pairs
results.py            results as text or as JSON; run_folder.py: the folder of a run's files
deferred.py           import what carries out a command when it runs
terminal.py           all output: lines and errors; tables.py: tables and styled text;
                      redrawn_view.py: live views
shell_completion.py   completion of commands by a shell
interruption.py       Ctrl-C, SIGTERM and a closed terminal
stack.py              the deployed stack: its outputs and AWS clients (typed in aws_clients.py)
greengrass_cloud.py   Greengrass in an AWS account: groups, component versions, deployments
commands/             the commands: typed functions with their options
doctor/               what is wrong with a fleet, and what to do about it
deploy/               the fleet's stack, its components and their deployments
tasks/                the components of tasks: files, requirements, recipe
flower/               Flower apps: their components, and ServerApps that drive a fleet
task_messages/        the exchange of messages between a ServerApp and the devices
devices/              the devices of a stack: their log lines
device_options/       options of tasks for single things
strategies/           custom aggregation strategies in the functions' zip
provisioning/         things, certificates and the files of a core device
statistics/           federated statistics: start them, show and compare results
tracking/             figures, models and traces of runs, for MLflow, TensorBoard, OpenTelemetry and others
runs/                 start and control runs, follow them, show their history
"""

from fedgrass.sources import add_to_path

add_to_path()
