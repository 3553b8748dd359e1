"""The one-page report of an evaluation."""
