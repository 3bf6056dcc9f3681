"""De-identification: a compiled policy, and a pure engine that applies it.

Bytes of a policy become a :class:`CompiledPolicy`, which an :class:`Engine` applies to rows of text.
No IO, no clock: keys, randomness and the reference date are passed in.
"""

from geumgo.deid._detect import DEFAULT_MIN_SCORE, Finding, detect
from geumgo.deid._engine import Engine, Rejection, Result
from geumgo.deid._entities import ENTITIES
from geumgo.deid._errors import InputError, PolicyError
from geumgo.deid._policy import VERSION, CompiledPolicy, Field, Text
from geumgo.deid._rules import TECHNIQUES

__all__ = (
    "DEFAULT_MIN_SCORE",
    "ENTITIES",
    "TECHNIQUES",
    "VERSION",
    "CompiledPolicy",
    "Engine",
    "Field",
    "Finding",
    "InputError",
    "PolicyError",
    "Rejection",
    "Result",
    "Text",
    "detect",
)
