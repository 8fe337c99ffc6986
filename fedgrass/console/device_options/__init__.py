"""Options of tasks for single devices: ``fedgrass deploy devices --thing`` and ``--options-table``.

Each thing gets a deployment of options_component, whose configuration the trainer and the predictor merge
over their own. options_table reads what the operator wants; options_plan compares it with AWS, by way of
thing_groups; options_rollout creates the deployments; options_command is the command.
"""
