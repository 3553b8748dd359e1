"""Scores of many images: restoring them, statistics, calibration, reports."""
