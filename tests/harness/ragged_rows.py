"""The function of ragged jobs, in a small module: r3po looks through the module of a function at each run."""

from __future__ import annotations

import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

CALLS: list[str] = []
"""Names of the files that it was called with."""


def read_row(filepath: str) -> Any:
    """Return what the file holds: a Python expression."""
    CALLS.append(Path(filepath).name)
    return eval(Path(filepath).read_text(), {"datetime": datetime, "Decimal": Decimal, "nan": float("nan")})
