"""How a family of models is laid out: the table of families, and a model bound to its row."""
