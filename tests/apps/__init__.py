"""Apps in the form that ``flwr new`` gives, and Flower's own run of an app in this process."""
