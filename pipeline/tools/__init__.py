"""Tools: catalogues, grammars, and whether a call is right."""
