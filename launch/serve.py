"""Serves a model over HTTP: ``python -m launch.serve --help``."""

import sys

from maskgit_sr.serving.command import main

if __name__ == "__main__":
    sys.exit(main())
