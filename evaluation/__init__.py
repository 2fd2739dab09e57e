"""Measured loss, the plan against uniform quantization, and how both are shown.

Knows nothing about how plans are found.
"""
