"""Decides how many bits each layer of a language model gets, by an exact integer program."""

__version__ = "0.1.0"
