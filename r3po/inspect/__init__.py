"""Looking at a job without changing it: its status, and whether everything on disk agrees.

Owns what `r3po status` and `r3po verify` say. It must not take the lock, write a file, start workers or call f: a run
may be going on.
"""
