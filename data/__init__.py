"""Host-side training and validation data: NumPy, OpenCV and grain; no JAX.

`sources` finds and decodes images, `degradations` makes the low-resolution input out of the
high-resolution photograph, `pipeline` puts both together into deterministic, resumable batches.
"""
