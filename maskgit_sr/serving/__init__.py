"""Serving a model: `python -m launch.serve` starts the HTTP server."""
