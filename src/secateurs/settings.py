"""Settings: frozen, strict values with YAML, one-line text, JSON Schema and a hash; the base of every config.

A class that derives from Settings lists its fields; unknown keys, wrong types and impossible values are one
RecipeError. Nothing in a config names code to import.
"""

import hashlib
import json
import re
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.json_schema import GenerateJsonSchema

from secateurs.checks import nearest, shown
from secateurs.errors import PatternError, RecipeError
from secateurs.words import Word


class _WordsAsText(GenerateJsonSchema):
    """Pydantic's schema, with defaults written as the recipe's words: "magnitude"."""

    def encode_default(self, dft: Any) -> Any:
        """A word is its text."""
        return str(dft) if isinstance(dft, Word) else super().encode_default(dft)


MAX_YAML = 1_000_000  # characters, with every alias written out; a config has hundreds


class _Loader(yaml.SafeLoader):
    """Plain YAML in which every key stands once, and whose aliases do not multiply into more than MAX_YAML."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._n_characters: dict[yaml.Node, int] = {}

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """A mapping, or a RecipeError that names the key that stands twice."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise RecipeError(f"the key {shown(key.value)} stands twice, again in line {key.start_mark.line + 1}.")
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else key)
        self._weigh(node, [part for pair in node.value for part in pair])
        return node

    def compose_sequence_node(self, anchor: Any) -> yaml.SequenceNode:
        """A sequence."""
        node: yaml.SequenceNode = super().compose_sequence_node(anchor)
        self._weigh(node, node.value)
        return node

    def _weigh(self, node: yaml.CollectionNode, parts: list[Any]) -> None:
        """Note the characters of a node with its aliases written out; RecipeError where they are too many."""
        self._n_characters[node] = 1 + sum(
            len(part.value) if isinstance(part, yaml.ScalarNode) else self._n_characters.get(part, 1) for part in parts
        )
        if self._n_characters[node] > MAX_YAML:
            raise RecipeError(f"the aliases (*) stand for more than {MAX_YAML:,} characters; write the values out.")


class _Dumper(yaml.SafeDumper):
    """Writes texts that `_Loader` would read as numbers in quotes."""


# YAML 1.2 has 1e-3 as a number, as everybody writes it; PyYAML's 1.1 asks for 1.0e-3.
_POWER = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)[eE][-+]?[0-9]+$")
for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver("tag:yaml.org,2002:float", _POWER, list("-+.0123456789"))


class Settings(BaseModel):
    """Interface of every config value: compare, hash, write as YAML, read back the same."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True)

    def __init__(self, **values: Any) -> None:
        try:
            # -0.0 equals 0.0, so it must hash as 0.0 too.
            super().__init__(**{key: v + 0.0 if isinstance(v, float) else v for key, v in values.items()})
        except ValidationError as error:
            causes = [item.get("ctx", {}).get("error") for item in error.errors()]
            is_pattern = all(isinstance(cause, PatternError) for cause in causes)
            raise (PatternError if is_pattern else RecipeError)(self._explain(error)) from None

    @classmethod
    def model_json_schema(cls, *args: Any, **options: Any) -> dict[str, Any]:
        """JSON Schema, with words as their text."""
        return super().model_json_schema(*args, **{"schema_generator": _WordsAsText, **options})

    @classmethod
    def _explain(cls, error: ValidationError) -> str:
        lines = []
        for item in error.errors(include_url=False):
            where = ".".join(str(part) for part in item["loc"])
            if item["type"] == "extra_forbidden":
                lines.append(f"unknown key {shown(where)}. {nearest(str(item['loc'][-1]), cls.model_fields)}")
            elif item["type"] == "missing":
                lines.append(f"'{where}' is missing.")
            elif item["type"] == "value_error":
                lines.append(item["msg"].removeprefix("Value error, "))
            else:
                lines.append(f"'{where}': {item['msg']}; got {shown(item['input'])}.")
        return f"{cls.__name__}: " + " ".join(lines)

    def values(self) -> dict[str, Any]:
        """The JSON-able values of all fields; `type(self)(**values)` is this value again."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """YAML with every field, in the order of the class."""
        return yaml.dump(self.values(), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)

    @classmethod
    def from_yaml(cls, text: str, base: Self | None = None) -> Self:
        """The value a YAML mapping describes; RecipeError if it is not one.

        base  whose fields are those that the mapping does not name; None: the class's defaults
        """
        if len(text) > MAX_YAML:
            raise RecipeError(f"{cls.__name__}: {len(text):,} characters are no config; at most {MAX_YAML:,} are read.")
        try:
            values = yaml.load(text, _Loader)
        except RecipeError as error:
            raise RecipeError(f"{cls.__name__}: {error}") from None
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise RecipeError(f"{cls.__name__}: not YAML: {' '.join(str(error).split())}") from None
        if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
            raise RecipeError(f"{cls.__name__}: expected a YAML mapping of its fields, got {type(values).__name__}.")
        return cls(**{**({} if base is None else base.values()), **values})

    @property
    def hash(self) -> str:
        """16 hex digits that two equal values share, on every machine."""
        text = json.dumps(self.values(), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
