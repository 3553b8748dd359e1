"""Serves a model over HTTP: ``python -m launch.serve --help``."""

from maskgit_sr.serving.command import main

if __name__ == "__main__":
    main()
