"""The matrix file's JSON schema, for editors: made of the model, so that both say the same."""

from __future__ import annotations

import json
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from serving_factory.matrix.model import MatrixFile

__all__ = ["SCHEMA_FILE", "matrix_schema"]

SCHEMA_FILE = "matrix.schema.json"
"""Its name, beside matrix.yaml."""


def matrix_schema() -> str:
    """Make the schema, as the text of its file."""
    schema = {"$schema": _Generator.schema_dialect, **MatrixFile.model_json_schema(schema_generator=_Generator)}
    return json.dumps(_without_nulls(schema), indent=2, ensure_ascii=False) + "\n"


class _Generator(GenerateJsonSchema):
    """A key that may be left out is never null: the file's reader says so, and so do editors."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])


def _without_nulls(value: Any) -> Any:  # noqa: ANN401 - any part of a JSON document
    if isinstance(value, dict):
        return {name: _without_nulls(inner) for name, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value
