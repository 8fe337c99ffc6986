"""Custom aggregation strategies in the functions' zip: custom_strategies reads, chooses and packs them.

strategy_check imports them as the averager would, in the child process strategy_import; deployed_strategies
finds those of a stack, and the runs that use them.
"""
