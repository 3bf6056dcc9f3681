"""The kinds of identifiers that detectors find, in the order in which a tie is decided."""

from __future__ import annotations

__all__ = ("ENTITIES", "PRIORITY")

ENTITIES: dict[str, str] = {
    "RRN": "resident registration number (주민등록번호)",
    "FRN": "foreigner registration number (외국인등록번호)",
    "CARD": "payment card number",
    "PHONE": "telephone number",
    "EMAIL": "e-mail address",
    "PASSPORT": "passport number",
    "DRIVER_LICENCE": "driver licence number",
    "BRN": "business registration number (사업자등록번호)",
    "CRN": "corporate registration number (법인등록번호)",
    "ACCOUNT": "bank account number",
    "HEALTH_INSURANCE": "health insurance card number (건강보험증)",
    "BIRTH_DATE": "birth date",
    "VEHICLE": "vehicle plate",
    "ADDRESS": "Korean address",
    "IP": "IP address",
}
"""Entity name and what it stands for."""

PRIORITY: dict[str, int] = {name: rank for rank, name in enumerate(ENTITIES)}
"""Lower wins where two findings have the same score and length."""
