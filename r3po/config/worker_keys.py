"""What a worker has: the resources that Ray keeps for it (`worker`), and what f is given by name (`function_args`)."""

from __future__ import annotations

import datetime
import keyword
import os
import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, field_validator

_UNITS = {"": 1, "b": 1, "bytes": 1} | {
    f"{prefix}{ending}".lower(): base**power
    for power, prefix in enumerate("KMGT", 1)
    for ending, base in (("", 1024), ("B", 1000), ("iB", 1024))
}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")

_OWN = ("num_cpus", "num_gpus", "memory", "CPU", "GPU", "object_store_memory")
"""Resources that have a key of their own, or none."""


SIZE_SCHEMA: dict[str, Any] = {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string"}]}
"""What the JSON schema says of a size: it may allow more than `parse_size`, and never less."""


def parse_size(value: object) -> int:
    """Return a number of bytes: a whole number, or text with a unit such as `4 GiB`, `500 MB`, `64K`.

    Raises:
        ValueError: it is neither, or less than one byte.
    """
    found = _SIZE.fullmatch(str(value)) if isinstance(value, int | str) and not isinstance(value, bool) else None
    unit = _UNITS.get(found[2].lower()) if found else None
    size = int(float(found[1]) * unit) if found and unit else 0
    if size < 1:
        raise ValueError("must be a size such as 4 GiB, 500 MB or a number of bytes")
    return size


def to_arguments(value: Any) -> Any:
    """Return `function_args`, checked: names with values as YAML has them."""
    if not isinstance(value, dict):
        raise ValueError("must be a mapping such as {weights: weights.json, size: 3}")
    for name in value:
        if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
            raise ValueError(f'"{name}" is no name that an argument of a function can have')
    return {name: _plain(held, name) for name, held in value.items()}


class WorkerResources(BaseModel):
    """What Ray keeps for each worker; None: what it keeps without the key."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    num_cpus: Annotated[float, Field(ge=0, le=100_000)] | None = None
    num_gpus: Annotated[float, Field(ge=0, le=100_000)] | None = None
    memory: Annotated[
        int | None,
        BeforeValidator(lambda value: None if value is None else parse_size(value)),
        WithJsonSchema({"anyOf": [*SIZE_SCHEMA["anyOf"], {"type": "null"}]}),
    ] = None
    """Bytes."""
    resources: dict[str, Annotated[float, Field(gt=0)]] | None = None
    """Of a Ray whose machines have such, by name."""

    @field_validator("num_gpus")
    @classmethod
    def _refuse_odd(cls, value: float | None) -> float | None:
        if value is not None and value > 1 and value != int(value):
            raise ValueError("must be a whole number where it is more than 1")
        return value

    @field_validator("resources")
    @classmethod
    def _refuse_own(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        for name in value or ():
            if name in _OWN or not name.strip():
                raise ValueError(
                    f'"{name}" is no resource of its own; num_cpus, num_gpus and memory are keys of worker'
                )
        return value

    @property
    def needs(self) -> dict[str, float]:
        """What is asked for, by the names that Ray has for it."""
        asked = {"CPU": self.num_cpus, "GPU": self.num_gpus, "memory": self.memory, **(self.resources or {})}
        return {name: amount for name, amount in asked.items() if amount is not None}


# Private functions


def _plain(value: Any, name: str) -> Any:
    """Return a value of `function_args`; lists and dicts are copied."""
    if value is None or isinstance(value, bool | int | float | str | bytes | datetime.date):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, list | tuple):
        return [_plain(item, name) for item in value]
    if isinstance(value, dict) and all(isinstance(key, bool | int | float | str) for key in value):
        return {key: _plain(item, name) for key, item in value.items()}
    what = f"{name} holds a {type(value).__name__}"
    raise ValueError(f"{what}; it takes text, numbers, dates, lists and mappings (functools.partial takes the rest)")
