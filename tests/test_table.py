"""A table of one's own questions becomes records, or says what is wrong in which line."""

import json

import pytest

from groundnlq.cli import main
from groundnlq.data.records import read_records
from groundnlq.data.table import read_table
from groundnlq.errors import DataError

DURATIONS = {"kitchen": 60.0, "garage": 120.0}


@pytest.fixture
def table(tmp_path):
    def write(text: str, name: str = "mine.csv"):
        path = tmp_path / name
        path.write_bytes(text.encode())
        return path

    return write


def moments(path):
    return {record.query_id: record.moments_sec for record in read_table(path, DURATIONS)[0]}


def test_rows_with_the_same_clip_and_query_are_moments_of_one_query(table):
    path = table("clip,query,start,end\nkitchen,Where?,1,2.5\ngarage,Where?,3,4\nkitchen,Where?,0:10,1:00.5\n")
    assert moments(path) == {"kitchen_0": ((1.0, 2.5), (10.0, 60.5)), "garage_0": ((3.0, 4.0),)}


@pytest.mark.parametrize(
    "text",
    [
        "clip,query,start,end\nkitchen.mp4,Where?,83,84\n",
        "\ufeffClip, Query, Start_sec, End_sec\nkitchen.MOV, Where?, 1:23, 1:24\n",
        "clip;query;start;end\nkitchen;Where?;83,0;0:01:24\n",
        'end,start,query,clip\r\n84,83,"Where?",kitchen\r\n',
    ],
    ids=["video file", "byte order mark, capitals, spaces", "semicolons and decimal commas", "other order, Windows"],
)
def test_tables_as_spreadsheets_write_them_are_read(table, text):
    assert moments(table(text)) == {"kitchen_0": ((83.0, 84.0),)}


def test_tabs_separate_in_a_tsv_file(table):
    assert moments(table("clip\tquery\tstart\tend\nkitchen\tWhere, when?\t1\t2\n", "m.tsv")) == {
        "kitchen_0": ((1.0, 2.0),)
    }


def test_rows_without_moments_are_queries_and_rows_without_a_query_are_counted(table):
    path = table("clip,query,start,end\nkitchen,Where?,,\nkitchen, ,1,2\nkitchen,Who?,3,\n")
    records, _, counts = read_table(path, DURATIONS)
    assert [(r.query, r.moments_sec) for r in records] == [("Where?", ()), ("Who?", ())]
    assert counts == {"rows without a moment": 1, "rows without a query": 1, "rows with a start or an end alone": 1}


def test_all_faulty_lines_are_in_one_error(table):
    path = table("clip,query,start,end\nkitchen,Where?,one,2\nattic,Who?,1,2\na b,What?,1,2\nkitchen,Why?,1,nan\n")
    with pytest.raises(DataError) as caught:
        read_table(path, DURATIONS)
    for part in ("line 2: 'one' is not a time", "line 3: clip attic: its duration", "line 4: clip 'a b'", "line 5"):
        assert part in str(caught.value)


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "clip,query\n", "clip,query\n,\n"])
def test_a_table_without_queries_names_the_columns(table, text):
    with pytest.raises(DataError, match=r"mine\.csv: .* -- |columns clip"):
        read_table(table(text), DURATIONS)


def test_the_command_keeps_other_columns_beside_the_records(table, tmp_path, capsys):
    path = table("clip,query,start,end,duration,room,query_id\nkitchen,Where?,5,5,60,cellar,mine\n")
    output = tmp_path / "mine.jsonl"
    assert main(["prepare", "table", str(path), "--output", str(output)]) == 0
    (row,) = map(json.loads, output.read_text().splitlines())
    assert (row["room"], row["query_id"], row["duration"]) == ("cellar", "kitchen_0", 60.0)
    assert read_records(output)[0].moments_sec == ((5.0, 5.0),)
    assert "1 moments of 0 s (kitchen_0)" in capsys.readouterr().out
