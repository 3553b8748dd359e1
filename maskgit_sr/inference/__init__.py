"""Pictures in, pictures out."""

DEFAULT_MODEL = "realsrt-nano"
"""What is loaded unless another model is asked for; `maskgit_sr.list_models` has all."""
