"""What the code asks of AWS, beside what template.yaml lets it: recorded, worked out, compared."""
