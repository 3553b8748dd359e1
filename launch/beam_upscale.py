"""Restores images with Apache Beam: ``python -m launch.beam_upscale --help``."""

import sys

from maskgit_sr.batch.command import main

if __name__ == "__main__":
    sys.exit(main())
