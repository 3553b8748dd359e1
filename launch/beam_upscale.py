"""Restores pictures with Apache Beam: ``python -m launch.beam_upscale --help``."""

from maskgit_sr.batch.command import main

if __name__ == "__main__":
    main()
