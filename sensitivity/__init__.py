"""What a format of a layer costs in loss: calibration, estimators, the profile."""
