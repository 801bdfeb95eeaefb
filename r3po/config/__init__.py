"""The user's settings: config.yaml read, checked and explained.

Owns the keys, their meaning, their defaults and every message about a wrong one. It must not write over the user's file
or touch a folder that it names.
"""
