"""What is known of an estimator by its name alone.

Knows nothing about how estimators work, and loads no torch.
"""

WITHOUT_UNIT = frozenset({"output-error"})
