"""Compiles a policy, written in YAML, into the bytes that travel with a sealed request.

The language is described in docs/deidentification.md. Compiling does three things: it fills in what
the policy says once for all fields (`purpose`, `on_invalid`), it lets the engine's own checks decide,
and it turns their answer into a line of the file. The enclave repeats those checks.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from geumgo.client._policy_yaml import Document, Path, YamlProblem, read_yaml
from geumgo.deid import CompiledPolicy, PolicyError

__all__ = ("KEYED", "PolicySourceError", "compile_policy")

KEYED = frozenset({"pseudonym", "encrypt", "token", "date_shift"})
"""Techniques that use the key of a purpose."""

_TOP = frozenset(
    {"version", "name", "description", "unlisted", "reference_date", "fields", "purpose", "on_invalid"}
)


class PolicySourceError(PolicyError):
    """Raised when a policy's source can't be compiled.

    Attributes:
        source: the file's name.
        line: where, from 1.
    """

    def __init__(
        self, source: str, line: int, what: str, *, path: Path = (), why: str = "", fix: str = ""
    ) -> None:
        super().__init__(what, why=why, fix=fix)
        self.path = path
        self.source = source
        self.line = line
        where = ".".join(str(part) for part in path)
        self.what = f"{source}:{line}: {where + ': ' if where else ''}{what}"
        self.args = (self.what,)


def compile_policy(text: str, *, source: str = "policy.yaml") -> CompiledPolicy:
    """Return the compiled policy.

    Args:
        text: YAML.
        source: the file's name, for messages.

    Raises:
        PolicyError: a :class:`PolicySourceError` with the line of the first thing that is wrong.
    """
    try:
        document = read_yaml(text)
    except YamlProblem as problem:
        raise PolicySourceError(source, problem.line, problem.what, fix=problem.fix) from None
    try:
        return CompiledPolicy.from_map(_expand(document))
    except PolicyError as error:
        raise PolicySourceError(
            source,
            document.line_of(error.path),
            error.problem,
            path=error.path,
            why=error.why,
            fix=error.fix,
        ) from None


def _expand(document: Document) -> Any:
    """Return the map of a compiled policy: shorthands spelt out, shared options put into each field."""
    top = document.value
    if not isinstance(top, dict):
        raise PolicyError("a policy is a map", fix="Start with `version: 1`, `name: …` and `fields:`.")
    out = {key: value for key, value in top.items() if key not in ("description", "purpose", "on_invalid")}
    for key in top:
        if key not in _TOP:
            near = difflib.get_close_matches(key[:64], _TOP, n=1)
            fix = f"Did you mean '{near[0]}'?" if near else "Use: " + ", ".join(sorted(_TOP)) + "."
            raise PolicyError(f"there is no '{key[:64]}' in a policy", path=(key,), fix=fix)
    purpose, on_invalid = top.get("purpose"), top.get("on_invalid")
    if purpose is not None and not isinstance(purpose, str):
        raise PolicyError("must be text", path=("purpose",), fix="Put it in quotes.")
    if on_invalid is not None and on_invalid not in ("reject", "suppress"):
        raise PolicyError("must be 'reject' or 'suppress'", path=("on_invalid",))
    fields = top.get("fields")
    if isinstance(fields, dict):
        out["fields"] = {name: _field(rule, purpose, on_invalid) for name, rule in fields.items()}
    return out


def _field(rule: Any, purpose: str | None, on_invalid: str | None) -> Any:
    rule = _rule(rule)
    if not isinstance(rule, dict):
        return rule
    for name in ("entities", "known_values"):
        if isinstance(rule.get(name), dict):
            rule[name] = {key: _rule(item) for key, item in rule[name].items()}
    if "others" in rule:
        rule["others"] = _rule(rule["others"])
    if purpose is not None and "purpose" not in rule and _uses_key(rule):
        rule["purpose"] = purpose
    if on_invalid is not None and "on_invalid" not in rule:
        rule["on_invalid"] = on_invalid
    return rule


def _rule(rule: Any) -> Any:
    """Return `{technique: name}` for a bare `name`."""
    if isinstance(rule, str):
        return {"technique": rule}
    return dict(rule) if isinstance(rule, Mapping) else rule


def _uses_key(rule: Mapping[str, Any]) -> bool:
    if rule.get("technique") in KEYED:
        return True
    inner = [rule.get("others"), *_values(rule.get("entities")), *_values(rule.get("known_values"))]
    return any(isinstance(item, Mapping) and item.get("technique") in KEYED for item in inner)


def _values(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, Mapping) else []
