"""The user's files: listing, comparing with the manifest, hashing, reading, reading ahead.

Owns the walk and its order, and what makes a file new, changed or deleted. It must never write to the source. Its walk,
hashing and reading know nothing of a job's state.
"""
