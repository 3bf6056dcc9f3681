"""De-identification on one core: ``python benchmarks/deid.py [--rounds 5] [--json]``.

The yardstick is what people write first: four `re.sub` calls (resident number, phone, e-mail, card) without
checks, context, normalisation or overlaps. It is a lower bound on work, not on quality: it is counted what each
of the two finds. Both run in this process, in alternating rounds; every figure is the best of its rounds, in CPU
time. Records are the example's customers under the example's policy, in batches of 500 as a client sends them.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

from geumgo.client.policy import KEYED, compile_policy
from geumgo.deid import CompiledPolicy, Engine, detect

__all__ = ("main", "measure", "plain_substitution")

EXAMPLES = Path(__file__).resolve().parents[1] / "examples" / "deid"
BATCH = 500

# A note as in the throughput table of the reference, about 180 bytes of Korean with three identifiers.
NOTE = (
    "고객 홍길동님 상담 내용입니다. 주민등록번호는 900101-1234568이고 "
    "연락처는 010-1234-5678, 메일은 hong@example.com 입니다. 감사합니다."
)
FILLER = "오늘 상담에서는 요금제 변경과 부가 서비스 해지를 안내했고, 다음 달 3일에 다시 연락하기로 했습니다. "

_PLAIN = (
    (re.compile(r"(?<!\d)\d{6}-[0-9]\d{6}(?!\d)"), "[RRN]"),
    (re.compile(r"(?<!\d)01\d-\d{3,4}-\d{4}(?!\d)"), "[PHONE]"),
    (re.compile(r"[\w.+-]+@[\w-]+\.[\w.]+"), "[EMAIL]"),
    (re.compile(r"(?<!\d)\d{4}-\d{4}-\d{4}-\d{4}(?!\d)"), "[CARD]"),
)


def plain_substitution(text: str) -> str:
    """Return the text after four `re.sub` calls: the yardstick."""
    for pattern, to in _PLAIN:
        text = pattern.sub(to, text)
    return text


def _best(work: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the least CPU seconds of each piece of work over alternating rounds."""
    best = dict.fromkeys(work, float("inf"))
    for _ in range(rounds):
        for name, run in work.items():
            begin = time.process_time()
            run()
            best[name] = min(best[name], time.process_time() - begin)
    return best


def _keys(purpose: str, use: str) -> bytes:
    return hashlib.sha256(f"{purpose}/{use}".encode()).digest()


def _column(rule: dict[str, object], values: list[str]) -> Callable[[], object]:
    keyed = rule["technique"] in KEYED
    policy = CompiledPolicy.from_map(
        {
            "version": 1,
            "name": "column",
            "reference_date": "2026-01-01",
            "fields": {"x": rule | ({"purpose": "p"} if keyed else {})},
        }
    )
    engine = Engine(policy, _keys, random=os.urandom)
    rows = [[value] for value in values]
    return lambda: engine.deidentify(["x"], rows)


def measure(rounds: int) -> dict[str, dict[str, float]]:
    """Return texts in MB/s beside the yardstick, techniques in values/s and whole records in records/s."""
    with (EXAMPLES / "customers.ko.csv").open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    engine = Engine(
        compile_policy((EXAMPLES / "policy.yaml").read_text(encoding="utf-8")), _keys, random=os.urandom
    )
    memo_only = compile_policy("version: 1\nname: m\nfields: {memo: text}\n")
    text = Engine(memo_only, _keys, random=os.urandom)
    texts = {
        "note": [NOTE] * 2000,
        "2 KB": [(FILLER * 2 + NOTE) * 4] * 200,
        "20 KB": [(FILLER * 2 + NOTE) * 40] * 20,
        "memos of the example": [row[9] for row in rows],
        "no identifiers": [FILLER * 20] * 100,
    }
    out: dict[str, dict[str, float]] = {}
    for name, items in texts.items():
        table = [[item] for item in items]
        seconds = _best(
            {
                "geumgo": lambda table=table: text.deidentify(["memo"], table),  # type: ignore[misc]
                "re.sub": lambda items=items: [plain_substitution(item) for item in items],  # type: ignore[misc]
            },
            rounds,
        )
        size = sum(len(item.encode()) for item in items) / 1e6
        out[f"text: {name}"] = {
            "bytes": round(size * 1e6 / len(items)),
            "mb_per_second": round(size / seconds["geumgo"], 2),
            "re_sub_mb_per_second": round(size / seconds["re.sub"], 2),
            "ratio": round(seconds["re.sub"] / seconds["geumgo"], 3),
            "found": sum(len(detect(item)) for item in items),
            "re_sub_found": sum(plain_substitution(item).count("[") - item.count("[") for item in items),
        }
    numbers = [row[2] for row in rows]
    columns = {
        "token (FF1, 13 digits)": _column({"technique": "token"}, numbers),
        "token, kept ends": _column({"technique": "token", "keep_last": 4}, [row[6] for row in rows]),
        "pseudonym": _column({"technique": "pseudonym"}, numbers),
        "encrypt (AES-SIV)": _column({"technique": "encrypt"}, [row[4] for row in rows]),
        "generalise age": _column({"technique": "generalise", "as": "age"}, [row[8] for row in rows]),
        "mask name": _column({"technique": "mask", "as": "name"}, [row[1] for row in rows]),
    }
    for name, seconds_of in _best(columns, rounds).items():
        out[f"technique: {name}"] = {"values_per_second": round(len(rows) / seconds_of)}
    batches = [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]
    seconds = _best({"records": lambda: [engine.deidentify(header, batch) for batch in batches]}, rounds)
    size = sum(len(",".join(row).encode()) for row in rows) / 1e6
    out["records of the example"] = {
        "records_per_second": round(len(rows) / seconds["records"]),
        "mb_per_second": round(size / seconds["records"], 2),
    }
    return out


def main() -> None:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5, help="rounds, of which the best counts")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    figures = measure(options.rounds)
    if options.json:
        print(
            json.dumps(
                {"benchmark": "deid", "rounds": options.rounds, "figures": figures}, ensure_ascii=False
            )
        )
        return
    for name, values in figures.items():
        print(f"{name:32}" + "  ".join(f"{key} {value:,}" for key, value in values.items()))


if __name__ == "__main__":
    main()
