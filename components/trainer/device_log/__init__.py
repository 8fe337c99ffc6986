"""The last log lines of this device, which the operator gets with `fedgrass devices logs`.

log_ring.py        keeps them, in memory and in a file
secret_filter.py   takes credentials out of them
worker_output.py   adds what the worker process prints
log_answers.py     uploads them when the cloud requests it
"""
