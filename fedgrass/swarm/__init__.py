"""A load test of a deployed cloud: thousands of light devices over real MQTT, S3 and rules."""
