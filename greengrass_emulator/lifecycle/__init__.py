"""The deployed components of one core, and their processes.

Read in this order: deployed_component, configuration_tree, component_lifecycle (the state machine),
guarded_script, component_registry.
"""
