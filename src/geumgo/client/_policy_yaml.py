"""Reads YAML into plain values that remember their lines.

A policy needs a small part of YAML: maps, lists, text, whole numbers, true and false. What YAML 1.1
would guess from a bare word (`no` is false, `010` is eight, `2026-01-01` is a date) stays text, because
a column may well be called `no`. Aliases and tags are refused: a reviewer reads what is there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

__all__ = ("MAX_SOURCE_BYTES", "Document", "YamlProblem", "read_yaml")

MAX_SOURCE_BYTES = 512 << 10
"""A policy's source; a thousand fields with comments take a fifth of it."""

MAX_NODES = 50_000
"""Values in one source, so that reading it takes less than a second or two."""

MAX_DEPTH = 16
"""Nesting of a source; a policy has seven levels."""

_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")

Path = tuple[str | int, ...]


class YamlProblem(Exception):
    """Raised when the source is not the YAML that a policy is written in."""

    def __init__(self, line: int, what: str, fix: str = "") -> None:
        super().__init__(what)
        self.line = line
        self.what = what
        self.fix = fix


@dataclass(slots=True)
class Document:
    """Plain values and the line of each, by path; a map's entry counts from the line of its key."""

    value: Any
    lines: dict[Path, int] = field(default_factory=dict)

    def line_of(self, path: Path) -> int:
        """Return the line of the longest known beginning of `path`, from 1."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def read_yaml(text: str) -> Document:
    """Return the one document in `text`.

    Raises:
        YamlProblem: with the line, when it is not YAML, or more of YAML than a policy needs.
    """
    if len(text.encode("utf-8", "replace")) > MAX_SOURCE_BYTES:
        raise YamlProblem(1, f"the file is over the limit of {MAX_SOURCE_BYTES} bytes")
    _check_tokens(text)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise _problem(error) from None
    except (ValueError, RecursionError) as error:
        raise YamlProblem(1, f"this is not YAML ({type(error).__name__})") from None
    if node is None:
        raise YamlProblem(1, "the file is empty", "Start with `version: 1`.")
    document = Document(None)
    document.value = _value(node, (), document.lines)
    return document


def _check_tokens(text: str) -> None:
    """Refuse aliases, tags, depth and size before anything is built from them."""
    depth = count = 0
    opening = (
        yaml.BlockMappingStartToken,
        yaml.BlockSequenceStartToken,
        yaml.FlowMappingStartToken,
        yaml.FlowSequenceStartToken,
    )
    closing = (yaml.BlockEndToken, yaml.FlowMappingEndToken, yaml.FlowSequenceEndToken)
    try:
        for token in yaml.scan(text, Loader=yaml.SafeLoader):
            line = token.start_mark.line + 1
            if isinstance(token, yaml.AliasToken | yaml.AnchorToken):
                raise YamlProblem(
                    line, "anchors and aliases are not allowed in a policy", "Write the value out."
                )
            if isinstance(token, yaml.TagToken | yaml.DirectiveToken):
                raise YamlProblem(line, "tags and directives are not allowed in a policy", "Take it out.")
            if isinstance(token, opening):
                depth += 1
                if depth > MAX_DEPTH:
                    raise YamlProblem(line, f"nested deeper than {MAX_DEPTH} levels")
            elif isinstance(token, closing):
                depth -= 1
            count += isinstance(token, yaml.ScalarToken)
            if count > MAX_NODES:
                raise YamlProblem(line, f"more than {MAX_NODES} values")
    except yaml.YAMLError as error:
        raise _problem(error) from None
    except (ValueError, RecursionError) as error:
        raise YamlProblem(1, f"this is not YAML ({type(error).__name__})") from None


def _problem(error: yaml.YAMLError) -> YamlProblem:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    line = mark.line + 1 if mark is not None else 1
    what = getattr(error, "problem", None) or str(error).splitlines()[0]
    return YamlProblem(
        line, f"this is not YAML: {what}", "Look at indentation, colons and quotes on this line."
    )


def _value(node: yaml.Node, path: Path, lines: dict[Path, int]) -> Any:
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node)
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*path, index), lines) for index, item in enumerate(node.value)]
    out: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise YamlProblem(line, "a name must be text")
        key = key_node.value
        if key in out:
            raise YamlProblem(line, f"'{key[:64]}' is there twice", "Keep one of the two.")
        lines[(*path, key)] = line
        out[key] = _value(value_node, (*path, key), lines)
    return out


def _scalar(node: yaml.ScalarNode) -> str | int | bool | None:
    text: str = node.value
    if node.style is not None:  # quoted, or a block
        return text
    if text in ("true", "false"):
        return text == "true"
    if text in ("", "~", "null"):
        return None
    if _INTEGER.fullmatch(text):
        return int(text)
    return text
