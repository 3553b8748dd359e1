"""Restoration of images by a bundle's model."""

DEFAULT_MODEL = "realsrt-small"
"""Name of the model that is loaded by default; `maskgit_sr.list_models` lists all."""
