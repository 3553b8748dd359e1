"""Host-side data: NumPy, OpenCV, Pillow and grain; no JAX of its own.

`sources` and `records` find images, `readers` passes over bad ones; `kernels`, `operations`,
`chain` and `degradations` turn HR into LR; `examples` and `pipeline` make training batches,
`validation` fixed pairs. `python -m data.prepare`, `data.degrade` and `data.preview` are commands.
"""

# maskgit_sr before any etils: it sends gs:// through gcsfs
from maskgit_sr.errors import name_the_extra

name_the_extra()
