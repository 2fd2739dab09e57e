"""Bytes, seconds, watts and joules: machines, the laws of decode, measuring and fitting a machine."""
