"""The JSON schema of config.yaml, from `config.keys`: editors complete and check a config with it.

It takes every config that r3po takes, as YAML 1.1 reads it, and refuses unknown keys and values of another type. What
only r3po can know, such as whether a variable is set, is left to r3po.
"""

from __future__ import annotations

import json
from typing import Any

from r3po.config.keys import Keys
from r3po.config.settings import IGNORED

SCHEMA_FILE = ".r3po-schema.json"
"""The name under which `r3po init` writes it beside a config."""


def config_schema() -> dict[str, Any]:
    """Return the schema, of JSON Schema draft 2020-12."""
    schema = Keys.model_json_schema()
    properties = schema["properties"]
    for name, field in Keys.model_fields.items():
        properties[name].pop("title", None)
        if field.default is None:
            properties[name].pop("default", None)  # null is not written; the key is left out
    definitions = schema.pop("$defs")
    options = definitions["ParquetOptions"]
    properties["parquet"] |= {
        "anyOf": [
            {"type": "boolean"},
            {
                "type": "object",
                "properties": {key: _without_title(value) for key, value in options["properties"].items()},
                "additionalProperties": False,
            },
        ],
        "default": True,
    }
    properties["worker"]["anyOf"] = [
        {
            "type": "object",
            "properties": {key: _without_title(of) for key, of in definitions["WorkerResources"]["properties"].items()},
            "additionalProperties": False,
        },
        {"type": "null"},
    ]
    properties |= {key: {"description": "not read any more", "deprecated": True} for key in IGNORED}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "config.yaml of r3po",
        **{key: schema[key] for key in ("type", "properties", "required", "additionalProperties")},
    }


def schema_text() -> str:
    """Return the schema as the text of a file."""
    return json.dumps(config_schema(), indent=2) + "\n"


def _without_title(schema: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key != "title"}
