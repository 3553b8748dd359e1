"""Export of models as artifacts that run without this package."""
