"""What the king wants to know of one file. Nothing here knows of R-3PO."""

import json


def count_fruits(filepath: str) -> dict[str, int]:
    """Return the sum of each group of produce in one log: one file in, one row out."""
    with open(filepath, encoding="utf-8") as file:
        produce = json.load(file)["produce"]
    return {group: sum(items.values()) for group, items in produce.items()}
