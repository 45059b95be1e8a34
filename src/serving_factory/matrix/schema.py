"""The matrix file's JSON schema, for editors: made of the model, so that both say the same."""

from __future__ import annotations

import json

from serving_factory.matrix.model import MatrixFile
from serving_factory.matrix.shapes import Section

__all__ = ["SCHEMA_FILE", "matrix_schema"]

SCHEMA_FILE = "matrix.schema.json"
"""Its name, beside matrix.yaml."""

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def matrix_schema() -> str:
    """Make the schema, as the text of its file."""
    schema = {"$schema": _DIALECT, "title": "matrix.yaml", **Section(MatrixFile).schema()}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
