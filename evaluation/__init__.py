"""Measured quality: plans beside uniform quantization and the original."""
