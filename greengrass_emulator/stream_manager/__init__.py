"""An emulation of Greengrass Stream Manager, for the unmodified `stream_manager` SDK.

Read in this order: stream_server (connections), stream_protocol, stream_operations, stream_store,
stream_messages (one stream), stream_files, stream_export (export threads), s3_export_task.
"""
