"""What is known of an estimator by its name alone.

Knows nothing about how estimators work, and loads no torch.
"""

ESTIMATOR_NAMES = (
    "fisher",
    "fisher-token",
    "fisher-sequence",
    "fisher-diagonal",
    "element-wise",
    "output-error",
    "hessian-trace",
    "hessian-xtrace",
    "hessian-diagonal",
    "direct",
    "linear",
)
WITHOUT_UNIT = frozenset({"output-error"})
