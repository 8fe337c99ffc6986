"""What trainer and predictor share; it imports nothing of a component.

Read in this order: process_setup, event_loop, component_errors, greengrass_ipc, retries,
configuration_watch, device_options, atomic_file, token_exchange_address, s3_access,
array_folders, array_files.
"""
