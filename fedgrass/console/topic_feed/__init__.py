"""A live subscription to the topics of a fleet, with the operator's AWS credentials instead of a certificate.

Read in this order: ``signed_address`` (where to connect, and the signature), ``topic_subscription`` (the
connection, repeated until it is closed, and its bounded queue), ``topic_watch`` (the command ``fedgrass
watch``) with ``watched_topics`` (which topics it shows).
"""
