"""Evaluation on sets of images: restoring, scoring, statistics, calibration and reports."""
