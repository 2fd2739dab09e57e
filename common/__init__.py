"""What every room stands on: errors, units, patterns, files, records, YAML, progress."""
