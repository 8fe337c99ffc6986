"""The embedded cloud: AWS on a laptop, as a MiniStack child process.

Read in this order: embedded_cloud, cloud_process (the parent's side), ministack_process (the child's
side), ministack_patches, key_conditions, topic_index, request_guard, request_counter, thing_credentials.
"""
