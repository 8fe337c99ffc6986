"""An emulator of an AWS IoT Greengrass V2 core device, for developers of components.

Components run unchanged, from their recipes and with the AWS SDKs, under the rules of the classic nucleus
or of Nucleus Lite.

Read in this order: core/nucleus (what a core consists of), recipe, deployment, lifecycle, ipc, iot,
stream_manager; then control and faults (how tests and the command line act on a running core),
core/standalone_core (a core without AWS) and command.
"""
