"""The factor of safety: how far a plan is from breaking."""
