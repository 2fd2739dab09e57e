"""What a user may ask of a plan, as records: limits, rules, inference engines, the constraint file."""
