"""The field's data sets, each read from the files as its authors publish them.

A function `SourceOptions -> Loaded` and a registration each; `docs/data.md` says which files.
"""
