"""Files through an operation: order, bounds, rejected rows, and an output that is complete or absent."""

from __future__ import annotations

import csv
import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geumgo._base import GeumgoError
from geumgo.client import AnswerRejected, FileError, FileResult, process_file
from geumgo.client._tables import BadRow, Csv, JsonLines, Row, format_of


def operation(opened):
    """Upper-case every cell; reject a row with a cell `bad`; leave the column `secret` out."""
    table = json.loads(opened.body)
    keep = [i for i, name in enumerate(table["columns"]) if name != "secret"]
    rows, rejected = [], []
    for number, row in enumerate(table["rows"]):
        if "bad" in row:
            field = table["columns"][row.index("bad")]
            rejected.append({"row": number, "field": field, "code": "invalid_value"})
        else:
            rows.append([row[i] and row[i].upper() for i in keep])
    columns = [table["columns"][i] for i in keep]
    return json.dumps({"columns": columns, "rows": rows, "rejected": rejected}).encode()


@pytest.fixture
async def client(enclave, serve, make_client):
    enclave.operation = operation
    address, _ = await serve(enclave)
    return make_client(address)


async def run(client, source, output, **options) -> FileResult:
    return await process_file(client, "deidentify", source, output, policy=b"p", **options)


async def test_csv(client, tmp_path):
    source, output = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text('name,secret,memo\nkim,1,"a, ""b"""\nlee,2,"two\nlines"\n')
    result = await run(client, source, output)
    with output.open(newline="") as file:
        written = list(csv.reader(file))
    assert written == [["name", "memo"], ["KIM", 'A, "B"'], ["LEE", "TWO\nLINES"]]
    assert (result.read, result.written, result.rejected_count) == (2, 2, 0)


async def test_byte_order_mark_is_no_part_of_a_name(client, tmp_path):
    source, output = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_bytes("\ufeffname\n김\n".encode())
    await run(client, source, output)
    assert output.read_text() == "name\n김\n"


async def test_order_over_many_batches(client, enclave, tmp_path):
    source, output = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text("n\n" + "".join(f"r{n}\n" for n in range(1000)))
    seen = []
    result = await run(
        client, source, output, batch_rows=7, progress=lambda rows, size: seen.append((rows, size))
    )
    assert output.read_text() == "n\n" + "".join(f"R{n}\n" for n in range(1000))
    assert result.written == 1000
    assert seen == sorted(seen)
    assert seen[-1][0] == 1000
    assert len(enclave.opened) == 143


async def test_rejected_rows_have_their_numbers_in_the_file(client, tmp_path):
    source, output, rejects = tmp_path / "in.csv", tmp_path / "out.csv", tmp_path / "rejects.jsonl"
    source.write_text("a,b\n1,x\nbad,x\n3,x\n4\n5,bad\n6,x\n")
    result = await run(client, source, output, batch_rows=2, rejects=rejects)
    assert output.read_text() == "a,b\n1,X\n3,X\n6,X\n"
    named = sorted((r.row, r.field, r.code) for r in result.rejected)
    assert named == [(2, "a", "invalid_value"), (4, "", "wrong_number_of_cells"), (5, "b", "invalid_value")]
    assert result.read == result.written + result.rejected_count == 6
    listed = sorted(json.loads(line)["row"] for line in rejects.read_text().splitlines())
    assert listed == [2, 4, 5]


async def test_json_lines(client, tmp_path):
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = [
        '{"name": "kim", "age": 30, "ok": true, "none": null}',
        '{"other": "x"}',
        "not json",
        '{"a": {"nested": 1}}',
        '{"a": 1, "a": 2}',
        "[1]",
        "",
        '{"name": "bad"}',
        '{"name": "lee"}',
    ]
    source.write_text("\n".join(lines) + "\n")
    result = await run(client, source, output)
    written = [json.loads(line) for line in output.read_text().splitlines()]
    assert written == [
        {"name": "KIM", "age": "30", "ok": "TRUE", "none": None},
        {"other": "X"},
        {"name": "LEE"},
    ]
    assert sorted((r.row, r.code) for r in result.rejected) == [
        (3, "not_json"),
        (4, "nested_value"),
        (5, "duplicate_name"),
        (6, "not_an_object"),
        (7, "invalid_value"),
    ]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        pytest.param(b"", "bad_header", id="empty"),
        pytest.param(b"a,,b\n", "bad_header", id="a column without a name"),
        pytest.param(b"a,a\n1,2\n", "bad_header", id="one name twice"),
        pytest.param(b'a\n"open\n', "bad_csv", id="open quote"),
        pytest.param(b"a\n" + b"x" * (1 << 20) + b"y\n", "bad_csv", id="endless cell"),
        pytest.param(b"a\n\xb1\xe8\n", "not_utf8", id="cp949"),
        pytest.param(b",".join(b"c%d" % n for n in range(1100)) + b"\n", "too_large", id="too many columns"),
    ],
)
async def test_bad_csv_leaves_no_output(client, tmp_path, content, code):
    source, output = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_bytes(content)
    with pytest.raises(FileError) as caught:
        await run(client, source, output)
    assert caught.value.code == code
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv"]


async def test_missing_input_and_folder(client, tmp_path):
    with pytest.raises(FileError, match=r"in\.csv"):
        await run(client, tmp_path / "in.csv", tmp_path / "out.csv")
    (tmp_path / "in.csv").write_text("a\n1\n")
    with pytest.raises(FileError, match="written"):
        await run(client, tmp_path / "in.csv", tmp_path / "no" / "out.csv")


async def test_failure_in_the_middle_keeps_the_older_file(client, enclave, tmp_path):
    source, output = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text("a\n" + "x\n" * 100)
    output.write_text("older")

    def fail_late(opened):
        if opened.sequence == 5:
            raise GeumgoError("no", code="operation_failed")
        return operation(opened)

    enclave.operation = fail_late
    with pytest.raises(GeumgoError):
        await run(client, source, output, batch_rows=10)
    assert output.read_text() == "older"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "out.csv"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="/dev/full stands for a full disk")
async def test_full_disk(client, tmp_path, monkeypatch):
    source = tmp_path / "in.csv"
    source.write_text("a\n" + "x" * 1000 + "\n" + "y\n" * 50_000)

    def full(directory=None, **_):
        part = tmp_path / ".part"
        part.touch()
        return os.open("/dev/full", os.O_WRONLY), str(part)

    monkeypatch.setattr("geumgo.client.files.tempfile.mkstemp", full)
    with pytest.raises(FileError) as caught:
        await run(client, source, tmp_path / "out.csv")
    assert caught.value.code == "cannot_write"
    assert "No space left" in caught.value.what
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv"]


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"{}", id="not a table"),
        pytest.param(b"\xff", id="not JSON"),
        pytest.param(b'{"columns":["a"],"rows":[],"rejected":[]}', id="rows that vanished"),
        pytest.param(b'{"columns":["a"],"rows":[["1"],["2"]],"rejected":[]}', id="rows from nowhere"),
        pytest.param(b'{"columns":["a"],"rows":[["1","2"]],"rejected":[]}', id="cells from nowhere"),
        pytest.param(
            b'{"columns":["a"],"rows":[],"rejected":[{"row":9,"field":"","code":"x"}]}', id="row 9 of 1"
        ),
        pytest.param(
            b'{"columns":["a"],"rows":[],"rejected":[{"row":0,"field":"","code":"x"},{"row":0,"field":"","code":"x"}]}',
            id="rejected twice",
        ),
    ],
)
async def test_an_answer_that_loses_rows_is_not_written(client, enclave, tmp_path, answer):
    source, output = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text("a\n1\n")
    enclave.operation = lambda opened: answer
    with pytest.raises(AnswerRejected) as caught:
        await run(client, source, output)
    assert caught.value.code == "malformed"
    assert not output.exists()


async def test_memory_stays_bounded(client, enclave, tmp_path):
    source, output = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text("a\n" + ("x" * 500 + "\n") * 20_000)
    ahead = []
    enclave.fault = lambda what: ahead.append(len(enclave.requests))
    await run(client, source, output, batch_rows=100)
    assert enclave.most_in_flight <= client.settings.window
    assert output.stat().st_size == source.stat().st_size


def test_formats_by_name_and_ending(tmp_path):
    assert isinstance(format_of(tmp_path / "x.CSV"), Csv)
    assert isinstance(format_of(tmp_path / "x.ndjson"), JsonLines)
    assert isinstance(format_of(tmp_path / "x", "jsonl"), JsonLines)
    with pytest.raises(FileError, match="neither csv nor jsonl"):
        format_of(tmp_path / "x.xlsx")


cells = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x00"), max_size=12)


@given(rows=st.lists(st.tuples(cells, cells), max_size=8))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_csv_round_trip(rows, tmp_path):
    path = tmp_path / "x.csv"
    table = Csv()
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(table.header(("a", "b")) + table.lines(("a", "b"), rows))
    with path.open(encoding="utf-8", newline="") as file:
        read = list(table.read(file, path))
    assert [row.cells for row in read if isinstance(row, Row)] == rows


@given(
    rows=st.lists(st.dictionaries(cells.filter(bool), st.none() | cells, min_size=1, max_size=4), max_size=8)
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_json_lines_round_trip(rows, tmp_path):
    path = tmp_path / "x.jsonl"
    table = JsonLines()
    with path.open("w", encoding="utf-8", newline="") as file:
        for row in rows:
            file.write(table.lines(tuple(row), [tuple(row.values())]))
    with path.open(encoding="utf-8", newline="") as file:
        read = list(table.read(file, path))
    assert not any(isinstance(row, BadRow) for row in read)
    assert [dict(zip(row.columns, row.cells, strict=True)) for row in read] == rows
