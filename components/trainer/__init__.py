"""The trainer: a Greengrass component that trains the global model on the device's own data."""
