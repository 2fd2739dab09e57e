"""The formal program: units, formats and limits as numbers, exact solvers, and a verifier that uses none of them.

Knows nothing about models, tensors or weight files: no torch here.
"""
