"""Host-side data: NumPy, OpenCV, Pillow and grain; no JAX of its own.

`sources` and `records` find images, `readers` passes over bad ones; `kernels`, `operations`,
`chain` and `degradations` turn HR into LR; `examples` and `pipeline` make training batches,
`validation` fixed pairs. `python -m data.prepare`, `data.degrade` and `data.preview` are commands.
"""

import os

# gs:// goes through gcsfs, as maskgit_sr sets it; modules here may import etils before maskgit_sr.
os.environ.setdefault("EPATH_USE_TF", "0")
