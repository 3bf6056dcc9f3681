"""Every number that bounds a caller of this room, with its reason."""

from __future__ import annotations

__all__ = (
    "MAX_BOUNDS",
    "MAX_CHOICES",
    "MAX_COLUMNS",
    "MAX_CONTEXT_CHARS",
    "MAX_FIELDS",
    "MAX_NAME_CHARS",
    "MAX_NUMBER_CHARS",
    "MAX_OPTION_CHARS",
    "MAX_POLICY_BYTES",
    "MAX_ROWS",
    "MAX_TEXT_CHARS",
    "MAX_VALUE_CHARS",
    "MIN_TOKEN_DOMAIN",
)

MAX_POLICY_BYTES = 256 << 10
"""A compiled policy; 1,000 fields with long options fit, and it travels with every sealed request."""

MAX_FIELDS = 1_000
"""Fields of one policy, and known values of one text field: wider than any table that people de-identify."""

MAX_COLUMNS = 1_000
"""Columns of one batch, for the same reason."""

MAX_ROWS = 100_000
"""Rows of one batch; a sealed body holds some 50,000 records, and a million empty rows would take 300 MB."""

MAX_NAME_CHARS = 128
"""Names of fields, purposes, scopes and policies; they are bound into every keyed value."""

MAX_OPTION_CHARS = 256
"""Any other text in a policy, such as a replacement."""

MAX_CHOICES = 256
"""Replacements that a `replace` rule draws from."""

MAX_BOUNDS = 256
"""Bounds of the ranges of one amount."""

MAX_VALUE_CHARS = 4_096
"""One value of a field that isn't free text; a name, number, date or address is far shorter."""

MAX_TEXT_CHARS = 4 << 20
"""One value of a free-text field: detection is linear, so this is a few seconds at most."""

MAX_NUMBER_CHARS = 40
"""Characters of an amount: arithmetic on longer numbers would cost more than linear time."""

MAX_CONTEXT_CHARS = 32
"""How far before a finding the words are looked at that raise its score."""

MIN_TOKEN_DOMAIN = 1_000_000
"""Smallest number of values that a token may come from (NIST SP 800-38G r1, requirement on radix^minlen)."""
