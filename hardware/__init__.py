"""Bytes, seconds, watts and joules: devices, the laws of decode, measuring and fitting a machine."""
