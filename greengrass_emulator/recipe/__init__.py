"""Component recipes.

Read in this order: recipe_reader, recipe_platform (the manifest for this machine, recipe variables),
access_control.
"""
