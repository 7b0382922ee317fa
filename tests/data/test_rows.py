import csv
import json
import subprocess
import sys
from types import ModuleType

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from ledmerge.data.rows import Message, Row, choose_rows, read_rows, rows_digest
from ledmerge.errors import DataError

RECORDS = [
    {"prompt": "1 + 1 =", "response": "2"},
    {"prompt": "Say\n\"hi\", 'please'\u2028now", "response": "hí,\r\n안녕"},
]


def write_jsonl(path, records):
    path.write_text("\n".join(json.dumps(record) for record in records), encoding="utf-8")


def write_json(path, records):
    path.write_text(json.dumps(records, ensure_ascii=False), encoding="utf-8")


def write_wrapped_json(path, records):
    path.write_text(json.dumps({"version": 1, "data": records}), encoding="utf-8")


def write_csv(path, records):
    def quote(cell):
        return '"' + cell.replace('"', '""') + '"'

    lines = [",".join(map(quote, cells)) for cells in ([*records[0]], *map(dict.values, records))]
    path.write_text("\n".join(lines), encoding="utf-8-sig", newline="")  # Excel's byte order mark


def write_parquet(path, records):
    parquet.write_table(pyarrow.Table.from_pylist(records), path)


WRITERS = {
    "rows.jsonl": write_jsonl,
    "rows.json": write_json,
    "wrapped.json": write_wrapped_json,
    "rows.csv": write_csv,
    "ROWS.PARQUET": write_parquet,
}


def rows(*contents):
    return [Row((Message("user", content),), content.upper(), "") for content in contents]


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_rows(tmp_path, name):
    path = tmp_path / name
    WRITERS[name](path, RECORDS)
    assert read_rows(path) == [
        Row((Message("user", record["prompt"]),), record["response"], f"{path}: row {number}")
        for number, record in enumerate(RECORDS, 1)
    ]


def test_fields_may_have_other_names(tmp_path):
    write_jsonl(tmp_path / "qa.jsonl", [{"question": "a?", "answer": "b"}])
    [row] = read_rows(tmp_path / "qa.jsonl", prompt_field="question", response_field="answer")
    assert (row.messages, row.response) == ((Message("user", "a?"),), "b")


@pytest.mark.parametrize(
    ("name", "write"), [("chat.jsonl", write_jsonl), ("chat.parquet", write_parquet)]
)
def test_messages_are_a_conversation(tmp_path, name, write):
    turns = [("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello")]
    record = {"messages": [{"role": role, "content": content} for role, content in turns]}
    write(tmp_path / name, [record])
    [row] = read_rows(tmp_path / name)
    assert row.messages == (Message("system", "Be kind."), Message("user", "Hi"))
    assert row.response == "Hello"


def test_a_prompt_goes_before_messages(tmp_path):
    write_jsonl(tmp_path / "both.jsonl", [{**RECORDS[0], "messages": []}])
    assert read_rows(tmp_path / "both.jsonl")[0].response == "2"


def test_blank_lines_are_no_rows(tmp_path):
    (tmp_path / "rows.jsonl").write_text('\n{"prompt": "a", "response": "b"}\n\n')
    assert [row.place[-5:] for row in read_rows(tmp_path / "rows.jsonl")] == ["row 1"]


def test_a_cell_of_csv_may_be_of_any_length(tmp_path):
    before = csv.field_size_limit()
    long = "a\n" * 100_000
    (tmp_path / "rows.csv").write_text(f'prompt,response\n"{long}",b\n')
    assert read_rows(tmp_path / "rows.csv")[0].messages[0].content == long
    assert csv.field_size_limit() == before


GOOD = RECORDS[0]
TURN = {"role": "user", "content": "Hi"}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (["a"], r"row 2 is \['a'\], expected an object"),
        ({"promt": "a"}, r"row 2: field 'prompt' is missing; did you mean 'promt'\?"),
        ({"prompt": "a", "b": "c"}, "row 2: field 'response' is missing; known are: b, prompt"),
        ({"prompt": 7, "response": "b"}, "row 2: field 'prompt' is 7, expected a string"),
        ({"prompt": "a", "response": None}, "row 2: field 'response' is None, expected a string"),
        ({"prompt": " \n", "response": "b"}, "row 2: the prompt is empty"),
        ({"prompt": "a", "response": "\t"}, "row 2: the response is empty"),
        ({"prompt": "a", "response": "\ud83d"}, "row 2: field 'response' holds half a character"),
        ({"messages": "Hi"}, "row 2: field 'messages' is 'Hi', expected objects"),
        ({"messages": ["Hi"]}, r"row 2: field 'messages' is \['Hi'\], expected objects"),
        ({"messages": []}, r"row 2: the roles are \[\], expected 'assistant' as the last"),
        ({"messages": [TURN]}, r"row 2: the roles are \['user'\], expected 'assistant'"),
        ({"messages": [{"role": "assistant", "content": "Hi"}]}, "row 2: the prompt is empty"),
        ({"messages": [TURN, {"role": "user"}]}, "row 2, message 2: field 'content' is missing"),
        ({"messages": [{"from": "human"}]}, "row 2, message 1: field 'role' is missing"),
    ],
)
def test_a_bad_row_is_named(tmp_path, record, message):
    write_jsonl(tmp_path / "rows.jsonl", [GOOD, record])
    with pytest.raises(DataError, match=rf"rows\.jsonl: {message}"):
        read_rows(tmp_path / "rows.jsonl")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"prompt": "a"}\n\n{"prompt": }', "line 3, column 12: expected a value"),
        (
            "a.jsonl",
            b'{"prompt": "a\tb"}',
            r"column 14: .* a tab or a line break, .* written \\t or \\n$",
        ),
        (
            "a.jsonl",
            b'{"prompt": "a\nb"}',
            r"line 1, column 12: the text .* is not closed; each object stands on one line",
        ),
        ("a.jsonl", b'{"prompt": "a"} {}', "column 17: more after the object; expected one object"),
        ("a.jsonl", b"{'prompt': 'a'}", "column 2: expected a name in double quotes"),
        ("a.jsonl", b'{"prompt": "a" "b": 1}', r"column 16: Expecting ',' delimiter$"),
        ("a.jsonl", b'[\n{"prompt": "a"}\n]', "line 1, column 2: expected a value.*one line"),
        ("a.json", b'[\n{"prompt": "a"\n]', r"line 3, column 1: Expecting ',' delimiter$"),
        ("a.json", b'{"rows": []}', "expected a list of objects"),
        ("a.json", b"[]", "has no rows"),
        ("a.json", b"[" * 100_000, "nested too deep"),
        ("a.jsonl", b"[" * 100_000, "nested too deep"),
        ("a.jsonl", b"\n", "has no rows"),
        ("a.jsonl", b'{"prompt": "\xff"}', "utf-8"),
        ("a.csv", b"prompt,response\na,b\nyes, I do,c", "line 3 has more cells than the header"),
        ("a.csv", b"prompt,response,prompt\na,b,c", "two columns are called 'prompt'"),
        ("a.csv", b'prompt,response\na,"b\nc,d', "unexpected end of data"),
        ("a.csv", b"prompt,response\na", "row 1: field 'response' is None"),
        ("a.parquet", b"no parquet", "cannot be read"),
        ("a.jsnl", b"", r"'.jsnl' files are not read; did you mean '.jsonl'\?"),
    ],
)
def test_a_broken_file_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{name}.*{message}"):
        read_rows(tmp_path / name)


def test_a_missing_file_suggests_its_neighbour(tmp_path):
    write_jsonl(tmp_path / "safety.jsonl", RECORDS)
    with pytest.raises(DataError, match=r"safty\.jsonl is not a file; did you mean 'safety.jsonl'"):
        read_rows(tmp_path / "safty.jsonl")
    with pytest.raises(DataError, match=r"is not a file$"):
        read_rows(tmp_path / "nowhere" / "safety.jsonl")


@pytest.mark.parametrize(
    ("source", "module", "library"),
    [
        ("rows.parquet", "pyarrow.parquet", "pyarrow>=14"),
        ("hub:a/b:train", "datasets", "datasets>=2.19"),
    ],
)
def test_a_missing_library_is_named(tmp_path, monkeypatch, source, module, library):
    monkeypatch.chdir(tmp_path)
    write_parquet(tmp_path / "rows.parquet", RECORDS)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DataError, match=rf"{module} is missing; run pip install '{library}'"):
        read_rows(source)


@pytest.fixture
def fake_hub(monkeypatch):
    def install(load_dataset):
        module = ModuleType("datasets")
        module.load_dataset = load_dataset
        monkeypatch.setitem(sys.modules, "datasets", module)

    return install


def test_hub_rows_come_from_the_named_split(fake_hub):
    def load_dataset(name, split):
        return iter(RECORDS) if (name, split) == ("user/name", "train[:2]") else iter([])

    fake_hub(load_dataset)
    found = read_rows("hub:user/name:train[:2]")
    assert [row.response for row in found] == ["2", "hí,\r\n안녕"]
    assert found[1].place == "hub:user/name:train[:2]: row 2"


@pytest.mark.parametrize("error", [FileNotFoundError("no such set"), ValueError("no such split")])
def test_a_hub_failure_is_named(fake_hub, error):
    def load_dataset(name, split):
        raise error

    fake_hub(load_dataset)
    with pytest.raises(DataError, match="hub:a/b:train cannot be loaded: no such"):
        read_rows("hub:a/b:train")


@pytest.mark.parametrize("source", ["hub:", "hub:user/name", "hub:user/name:", "hub::train"])
def test_a_hub_source_needs_name_and_split(source):
    with pytest.raises(DataError, match="should be hub:NAME:SPLIT"):
        read_rows(source)


def test_chosen_rows_are_golden():
    """A changed choice changes every score: it needs a line in the changelog."""
    chosen = choose_rows(rows(*"abcdefghij"), samples=4, seed=0)
    assert "".join(row.messages[0].content for row in chosen) == "dfhi"


@given(st.integers(0, 12), st.integers(0, 15), st.integers(0, 99))
def test_choices_are_nested_in_file_order_and_without_repeats(count, samples, seed):
    everything = rows(*(f"row {index:02}" for index in range(count)))
    chosen = choose_rows(everything, samples, seed)
    assert len(chosen) == min(count, samples)
    assert chosen == [row for row in everything if row in chosen]
    assert set(chosen) <= set(choose_rows(everything, samples + 1, seed))


def test_the_seed_changes_the_choice():
    everything = rows(*(f"row {index}" for index in range(100)))
    assert choose_rows(everything, 10, seed=0) != choose_rows(everything, 10, seed=1)


def test_digest_is_of_the_content_only():
    user, system = Message("user", "ab"), Message("system", "ab")
    digest = rows_digest([Row((user,), "c", "a.jsonl: row 1")])
    assert len(digest) == 32
    assert digest == rows_digest([Row((user,), "c", "b.csv: row 9")])
    others = [
        [Row((user,), "d", "")],
        [Row((system,), "c", "")],
        [Row((user, user), "c", "")],
        [Row((Message("user", "a"),), "bc", "")],
        [Row((user,), "c", "")] * 2,
        [],
    ]
    assert len({digest, *map(rows_digest, others)}) == 7


def test_reading_loads_no_heavy_library():
    code = "import sys, ledmerge.data.rows; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
