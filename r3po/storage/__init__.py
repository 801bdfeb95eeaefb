"""Durable bytes: files that are there whole or not at all, JSON files with a format, the lock, names of any bytes.

Owns every fsync and rename, and every request to an object store. It must not know what the files and objects mean.
"""
