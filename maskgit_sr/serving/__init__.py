"""The HTTP server, `maskgit-sr serve`; needs the extra ``serve``."""
