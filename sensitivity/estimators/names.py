"""What is known of an estimator by its name alone.

Knows nothing about how any of them works; loads no torch.
"""

WITHOUT_UNIT = frozenset({"output-error"})
