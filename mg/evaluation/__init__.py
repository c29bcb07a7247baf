"""How good reconstructions are, and the files by which a person sees it."""
