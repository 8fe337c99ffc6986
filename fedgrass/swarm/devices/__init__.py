"""The light devices of a swarm, thousands in one process.

light_device.py      what a device publishes and uploads
prepared_updates.py  its updates, and the model
mqtt_link.py         its MQTT session
signed_transfers.py  S3, and credentials for its certificate
device_crowd.py      the devices of a process: ramp, heartbeats, churn
swarm_process.py     the process
"""
