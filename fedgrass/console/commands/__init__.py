"""One module per command group: its options, and the call of what carries it out.

These modules are imported to parse any command line, so boto3, numpy and rich are imported inside
functions.
"""
