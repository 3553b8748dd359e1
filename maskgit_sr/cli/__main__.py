"""`python -m maskgit_sr.cli`."""

from maskgit_sr.cli import main

if __name__ == "__main__":
    main()
