"""Beginning a job: a first look at the user's files, and a config and a function made for them.

Owns what `r3po init` writes. It must not write over a file, nor into the source.
"""
