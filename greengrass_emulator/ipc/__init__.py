"""Greengrass IPC over a Unix socket.

Read in this order: event_stream (frames), ipc_connection (server and handshake), ipc_stream (one call),
ipc_model (requests and errors), then the operations: ipc_operations, ipc_messaging, ipc_administration.
"""
