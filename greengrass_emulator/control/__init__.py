"""Control of a running core over its Unix socket.

Read in this order: control_messages, control_server, control_client.
"""
