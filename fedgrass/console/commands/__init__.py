"""The command groups: their options, and the name of the function that carries each command out.

All of them are imported to parse any command line, so they name their actions by ``deferred`` and import
neither boto3, numpy nor rich.
"""
