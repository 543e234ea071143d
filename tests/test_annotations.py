import json
from dataclasses import replace

import pytest

from groundnlq.data.annotations import clean_query, read_nlq, read_truth
from groundnlq.data.records import identity_of, read_records, write_records
from groundnlq.errors import DataError
from tests.golden_inputs import GOLDEN


def official(*queries, clip_end=480.0, version="2.0"):
    clip = {
        "clip_uid": "c0",
        "video_start_sec": -4e-7,
        "video_end_sec": clip_end,
        "annotations": [{"annotation_uid": "a0", "language_queries": list(queries)}],
    }
    return {"version": version, "videos": [{"video_uid": "v0", "clips": [clip]}]}


def query(text="Where is it?", start=1.0, end=2.0, **more):
    return {"query": text, "clip_start_sec": start, "clip_end_sec": end, **more}


def write(tmp_path, tree, name="nlq_val.json"):
    path = tmp_path / name
    path.write_text(tree if isinstance(tree, str) else json.dumps(tree), encoding="utf-8")
    return path


def test_the_dirty_golden_file_gives_the_published_records_byte_for_byte(tmp_path):
    records = read_nlq(GOLDEN / "annotations_dirty.json", clean_text=False).records
    write_records(tmp_path / "r.jsonl", [replace(r, template=None, raw_query=None, video_uid=None) for r in records])
    assert (tmp_path / "r.jsonl").read_bytes() == (GOLDEN / "annotations_records.jsonl").read_bytes()


def test_records_survive_a_round_trip(tmp_path):
    records = read_records(GOLDEN / "annotations_records.jsonl")
    write_records(tmp_path / "again.jsonl", records)
    assert read_records(tmp_path / "again.jsonl") == records
    crlf = write(tmp_path, "\ufeff" + (tmp_path / "again.jsonl").read_text().replace("\n", "\r\n") + "\r\n")
    assert read_records(crlf) == records


def test_records_keep_template_and_annotated_text_as_further_keys(tmp_path):
    queries = query("Query Text: where is  it?", template="Place: Where did I put X?"), query(template=None)
    records = read_nlq(write(tmp_path, official(*queries))).records
    write_records(tmp_path / "r.jsonl", records)
    again = read_truth(tmp_path / "r.jsonl")  # no second file is needed to evaluate by template
    assert again == records
    assert (again[0].template, again[0].raw_query) == ("Place: Where did I put X?", "Query Text: where is  it?")
    rows = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    published, kept = (
        ["query", "query_id", "duration", "video_id", "query_type", "timestamps"],
        ["raw_query", "video_uid"],
    )
    assert [list(row) for row in rows] == [[*published, "template", *kept], [*published, *kept]]


def test_files_of_the_former_layout_are_read_and_have_the_same_identity(tmp_path):
    records = read_nlq(GOLDEN / "annotations_dirty.json").records
    former = [replace(record, template=None, raw_query=None) for record in records]
    write_records(tmp_path / "former.jsonl", former)
    assert read_records(tmp_path / "former.jsonl") == former
    assert identity_of(former) == identity_of(records)


def test_the_index_counts_queries_without_text(tmp_path):
    file = read_nlq(write(tmp_path, official(query(""), query(None), query(), {"query": "  "})))
    assert [r.query_id for r in file.records] == ["a0_2"]
    assert (file.records[0].annotation_uid, file.records[0].query_idx) == ("a0", 2)
    assert file.dirt["queries without text"] == 3


def test_a_test_file_of_version_1_has_no_moments_and_cannot_be_scored(tmp_path):
    path = write(tmp_path, official({"query": "Where?"}, {"query": "Who?"}, version="1"))
    assert [r.moments_sec for r in read_nlq(path).records] == [(), ()]
    with pytest.raises(DataError, match="no moments"):
        read_truth(path)


def test_moments_beyond_the_clip_are_kept_as_annotated_and_counted(tmp_path):
    file = read_nlq(write(tmp_path, official(query(end=484.6))))
    assert file.records[0].moments_sec == ((1.0, 484.6),)
    assert file.dirt["moments that end beyond the clip"] == 1


def test_cleaning_keeps_the_annotated_text_beside_the_clean_one(tmp_path):
    path = write(tmp_path, official(query("Query Text: what did\tI  put? ")))
    (record,) = read_nlq(path).records
    assert (record.query, record.raw_query) == ("what did I put?", "Query Text: what did\tI  put? ")
    (raw,) = read_nlq(path, clean_text=False).records
    assert raw.query == record.raw_query
    assert clean_query("X Text (Optional): the knife ?") == "the knife ?"


FAULTS = {
    "reversed": (official(query(start=5, end=4)), r"language_queries\[0\]: the moment ends at 4 s"),
    "empty": (official(query(start=5, end=5)), "not after its start"),
    "negative": (official(query(start=-5.0)), "outside 0"),
    "behind": (official(query(start=481.0, end=482.0)), "outside 0"),
    "text": (official(query(start="1")), r"language_queries\[0\].clip_start_sec: a number expected, got '1'"),
    "some missing": (official(query(), {"query": "Who?"}), r"language_queries\[1\]: missing clip_start_sec"),
    "number as text": (official(query(text=3)), "a text expected, got 3"),
    "bad clip": (official(query(), clip_end=-1.0), "not after its start"),
    "no videos": ({"version": "1"}, "no list 'videos'"),
    "list": ([1], "no list 'videos'"),
    "no clips": ({"videos": [{}]}, r"videos\[0\]: has no list 'clips'"),
    "path as id": ({"videos": [{"clips": [{"clip_uid": "../x"}]}]}, "clip_uid"),
    "truncated": ('{"videos": [', "not valid JSON"),
    "NaN": (official(query(start=float("nan"))), r"language_queries\[0\].clip_start_sec: .* expected, got nan"),
    "beyond any clip": (official(query(end=10**400)), "a number expected, got 1000"),
    "half a character": (official(query(text="\ud800")), "a text expected"),
    "key twice": ('{"videos": [], "videos": []}', "duplicate key 'videos'"),
    "deep": ("[" * 100_000, "not valid JSON"),
    "no query": (official(query("")), "no query with a text"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_refused_with_their_place(tmp_path, name):
    tree, message = FAULTS[name]
    with pytest.raises(DataError, match=message) as error:
        read_nlq(write(tmp_path, tree))
    assert "nlq_val.json" in str(error.value)


def test_all_faults_of_a_file_come_in_one_report(tmp_path):
    with pytest.raises(DataError) as error:
        read_nlq(write(tmp_path, official(query(start=5, end=4), query(), query(start="x"))))
    assert "2 faults" in str(error.value)
    assert "language_queries[0]" in str(error.value)
    assert "language_queries[2]" in str(error.value)


def test_duplicates_and_other_encodings_are_refused(tmp_path):
    tree = official(query())
    tree["videos"].append(tree["videos"][0])
    with pytest.raises(DataError, match=r"duplicate clip c0 \(first at videos\[0\]"):
        read_nlq(write(tmp_path, tree))
    (tmp_path / "latin.json").write_bytes('{"a": "é"}'.encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        read_nlq(tmp_path / "latin.json")
    with pytest.raises(DataError, match="No such file"):
        read_nlq(tmp_path / "absent.json")


def test_broken_lines_of_records_are_all_named(tmp_path):
    good = (GOLDEN / "annotations_records.jsonl").read_text().splitlines()
    broken = [good[0], "{", good[0], good[1].replace("480.0", "-1"), good[2].replace("a00_3", "../../x")]
    with pytest.raises(DataError) as error:
        read_records(write(tmp_path, "\n".join(broken), "r.jsonl"))
    for part in (
        "line 2",
        "line 4: duration: a positive number of seconds expected, got -1",
        "line 5: query_id: an id of letters",
        "line 3: duplicate query_id a00_0 (first at line 1)",
    ):
        assert part in str(error.value)


def test_truth_is_read_from_both_layouts():
    from_json = read_truth(GOLDEN / "annotations_dirty.json")
    from_lines = read_truth(GOLDEN / "annotations_records.jsonl")
    assert [(r.query_id, r.moments_sec) for r in from_json] == [(r.query_id, r.moments_sec) for r in from_lines]


def test_narrations_are_read_and_written_in_their_own_layout(tmp_path):
    row = {
        "narration_query": "picks a cup",
        "query_id": "c0_narrator-1_7",
        "duration": 10.0,
        "video_id": "c0",
        "query_type": "nlq_narration",
        "timestamps": [[1.0, 1.5]],
    }
    path = write(tmp_path, json.dumps(row) + "\n", "n.jsonl")
    (record,) = read_records(path)
    assert record.query == "picks a cup"
    write_records(tmp_path / "n2.jsonl", [record])
    assert (tmp_path / "n2.jsonl").read_text() == path.read_text().strip()
