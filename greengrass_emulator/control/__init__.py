"""Control of a running core over its Unix socket.

Read in this order: control_client (with the messages), control_server.
"""
