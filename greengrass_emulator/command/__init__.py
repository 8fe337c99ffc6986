"""The command line of the emulator.

Read in this order: ``__main__`` of the package (the program ``greengrass-emulator``), core_actions (its
actions, which another program may offer as well), foreground_core (the action ``run``), typed_options
(options and mistakes, on cyclopts), plain_help, terminal_output.
"""
