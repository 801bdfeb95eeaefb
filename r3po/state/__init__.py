"""What is on disk of a job: manifest, shard files, segments, commits, outcomes, the output folder.

Owns the files of FORMAT.md, the order in which they are written, and the one predicate that says which outcome counts.
It must not call f, walk the source, or know of workers.
"""
