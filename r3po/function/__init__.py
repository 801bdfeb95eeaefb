"""The user's function: finding it, importing it, and the fingerprint of its code.

Owns both ways to name a function and every message about one that cannot be found or imported. It must not call f, nor
look at what f returns.
"""
