"""Pictures in, pictures out."""

DEFAULT_MODEL = "realsrt-small"
"""What is loaded unless another model is asked for; `maskgit_sr.list_models` has all."""
