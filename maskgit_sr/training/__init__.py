"""The trainer: steps, optimizers, mesh, checkpoints; needs the extra ``train``."""

from maskgit_sr.errors import require_training

require_training()
