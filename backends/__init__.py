"""Formats: their arithmetic, exact sizes and rounding methods, the model's layers, and checkpoints.

Knows nothing about losses.
"""
