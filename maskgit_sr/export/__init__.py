"""Models as artifacts that run without this package."""
