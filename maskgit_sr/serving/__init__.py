"""The HTTP server, `python -m launch.serve`; needs the extra ``serve``."""
