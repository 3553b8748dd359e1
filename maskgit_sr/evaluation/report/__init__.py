"""Report of an evaluation on one page."""
