"""Rows: which values a column may hold, outcomes in memory and on disk, CSV and Parquet parts, one schema.

Owns the only import of Arrow and everything about types and values. It must not know of shards on disk, of commits or
of workers.
"""
