"""What a format of a layer costs in loss: text, passes over it, estimators, and the profile that holds the result.

Knows nothing about engines or measured plans.
"""
