"""Measured quality: a plan against uniform quantization and the original."""
