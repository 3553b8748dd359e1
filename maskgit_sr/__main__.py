"""`python -m maskgit_sr`, the command `maskgit-sr` where its folder is not on the PATH."""

from maskgit_sr.cli import main

if __name__ == "__main__":
    main()
