import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from groundnlq.analysis.evaluation import evaluate
from groundnlq.data.annotations import clean_query, read_clips, read_nlq, read_truth
from groundnlq.data.dataset import QueryDataset
from groundnlq.data.grid import StepGrid
from groundnlq.data.narrations import narration_records
from groundnlq.data.records import Record, identity_of, odd_moments, read_records, write_records
from groundnlq.data.submission import write_submission
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


CLIP = {"clip_uid": "c0", "video_start_sec": 0, "video_end_sec": 480}


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
    "no videos": ({"version": "1"}, "no list 'videos'"),
    "list": ([1], "no list 'videos'"),
    "no clips": ({"videos": [{}]}, r"videos\[0\]: has no list 'clips'"),
    "no annotations": ({"videos": [{"clips": [CLIP]}]}, r"clips\[0\]: has no list 'annotations'"),
    "video that is a number": ({"videos": [1]}, r"videos\[0\]: an object expected, got 1"),
    "truncated": ('{"videos": [', "not valid JSON"),
    "key twice": ('{"videos": [], "videos": []}', "duplicate key 'videos'"),
    "deep": ("[" * 100_000, "not valid JSON"),
    "no query": (official(query("")), "no query with a text in it; queries without text: a0_0"),
    "no clip": (official(query(), clip_end=-1.0), r"no query .*; clips left out: videos\[0\].clips\[0\]: clip c0 ends"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_makes_the_whole_file_unreadable_is_refused_with_its_place(tmp_path, name):
    tree, message = FAULTS[name]
    with pytest.raises(DataError, match=message) as error:
        read_nlq(write(tmp_path, tree))
    assert "nlq_val.json" in str(error.value)


def test_all_faults_of_a_file_come_in_one_report(tmp_path):
    with pytest.raises(DataError) as error:
        read_nlq(write(tmp_path, {"videos": [{}, official(query())["videos"][0], 7]}))
    assert "2 faults" in str(error.value)
    assert "videos[0]" in str(error.value)
    assert "videos[2]" in str(error.value)


ODD_MOMENTS = {  # start and end as in the file; the kind; the moment of the record
    "no length": (5, 5, "moments of 0 s", (5, 5)),
    "reversed": (5.5, 4, "moments that end before they start", (5.5, 4)),
    "behind the clip": (481.0, 490.5, "moments outside the clip", (481.0, 490.5)),
    "before the clip": (-9.0, -5.0, "moments outside the clip", (-9.0, -5.0)),
    "up to the clip": (-9.0, 0.0, "moments outside the clip", (-9.0, 0.0)),
    "no end": (5.0, None, "moments without start or end", (5.0, 5.0)),
    "no start": (None, 5.0, "moments without start or end", (5.0, 5.0)),
    "neither": (None, None, "moments without start or end", (0.0, 0.0)),
    "text": ("1", 5.0, "moments without start or end", (5.0, 5.0)),
    "NaN": (float("nan"), 5.0, "moments without start or end", (5.0, 5.0)),
    "infinite": (1.0, float("inf"), "moments without start or end", (1.0, 1.0)),
    "beyond any clip": (1.0, 10**400, "moments without start or end", (1.0, 1.0)),
    "truth value": (True, 5.0, "moments without start or end", (5.0, 5.0)),
    "list": ([1], {}, "moments without start or end", (0.0, 0.0)),
}


@pytest.mark.parametrize("name", ODD_MOMENTS)
def test_a_moment_that_nothing_can_hit_is_counted_and_named_and_stays_for_the_evaluation(tmp_path, name):
    start, end, kind, moment = ODD_MOMENTS[name]
    file = read_nlq(write(tmp_path, official(query(), query(start=start, end=end), query(start=3.0, end=4.5))))
    assert [record.moments_sec for record in file.records] == [((1.0, 2.0),), (moment,), ((3.0, 4.5),)]
    assert [bool(record.oddity) for record in file.records] == [False, True, False]
    assert (file.dirt[kind], file.odd) == (1, {kind: ["a0_1"]})
    write_records(tmp_path / "r.jsonl", file.records)  # the same judgement about either layout
    again = read_records(tmp_path / "r.jsonl")
    assert again == file.records
    assert odd_moments(again) == f"1 {file.records[1].oddity} (a0_1)"


@pytest.mark.parametrize("text", ["", " ", "Query Text: ", None, 3, "\ud800", [], {"a": 1}])
def test_a_query_without_a_readable_text_is_left_out_and_counted(tmp_path, text):
    file = read_nlq(write(tmp_path, official(query(), query(text), query())))
    assert [record.query_id for record in file.records] == ["a0_0", "a0_2"]
    assert file.odd == {"queries without text": ["a0_1"]}


@pytest.mark.parametrize("entry", [None, 7, "Where?", [], {}])
def test_a_query_that_is_no_object_loses_nothing_but_itself(tmp_path, entry):
    file = read_nlq(write(tmp_path, official(query(), entry, query())))
    assert [record.query_id for record in file.records] == ["a0_0", "a0_2"]
    assert file.odd == {"queries without text": ["a0_1"]}


def test_a_query_with_a_moment_in_a_test_split_does_not_make_the_others_misses(tmp_path):
    blind = {"query": "Where?"}
    file = read_nlq(write(tmp_path, official(blind, query(), blind)))
    assert [record.moments_sec for record in file.records] == [(), ((1.0, 2.0),), ()]
    assert file.odd == {}


def test_a_start_a_little_before_the_clip_is_counted_scored_as_annotated_and_clamped_for_training(tmp_path):
    file = read_nlq(write(tmp_path, official(query(start=-0.02))))
    assert file.dirt["moments that begin before the clip"] == 1
    assert (file.records[0].moments_sec, file.records[0].oddity) == (((-0.02, 2.0),), "")
    hit = np.array([[-0.02, 2.0, 1.0]])
    assert evaluate({"a0_0": hit}, file.records).official["mIoU"] == 100  # the official script does not clamp
    grid = StepGrid(fps=1.0, snippet_stride_frames=1.0, half_window="legacy")
    dataset = QueryDataset(file.records, SimpleNamespace(num_steps={"c0": 480}), None, grid)
    assert dataset._moments(0, 0).tolist() == [[0.0, 2.0]]


def test_clips_and_annotations_without_id_or_times_are_left_out_and_counted(tmp_path):
    tree = official(query())
    good = tree["videos"][0]["clips"][0]
    odd = [good | {"clip_uid": None}, good | {"clip_uid": "c1", "video_end_sec": None, "video_start_sec": "0"}, 7]
    good["annotations"] += [{"annotation_uid": None, "language_queries": [query()]}, {"annotation_uid": "a1"}]
    tree["videos"][0]["clips"] += odd
    file = read_nlq(write(tmp_path, tree))
    assert [record.query_id for record in file.records] == ["a0_0"]
    clips, annotations = file.odd.pop("clips left out"), file.odd.pop("annotations left out")
    assert [name.split(":")[0] for name in clips] == [
        "videos[0].clips[1].clip_uid", "videos[0].clips[2].video_start_sec", "videos[0].clips[3]"
    ]  # fmt: skip
    assert annotations[0].startswith("videos[0].clips[0].annotations[1].annotation_uid: an id")
    assert file.odd == {}
    assert [file.dirt[f"{kind} left out"] for kind in ("clips", "annotations")] == [3, 1]
    assert file.dirt["annotations without queries"] == 1


def test_clips_of_other_tasks_without_id_or_video_are_left_out_with_a_warning(tmp_path):
    tree = official(query())
    good = tree["videos"][0]["clips"][0]
    tree["videos"] += [{"clips": [good | {"clip_uid": "c1"}]}, {"video_uid": "v2", "clips": []}]
    tree["videos"][0]["clips"].append(good | {"clip_uid": None})
    path = write(tmp_path, tree, "vq_train.json")
    with pytest.warns(
        UserWarning, match=r"vq_train.json: clips left out 2: videos\[0\].clips\[1\].clip_uid: .* got None"
    ):
        clips = read_clips([path])
    assert list(clips) == ["c0"]
    egoclip = tmp_path / "egoclip.csv"
    columns = "video_uid\tnarration_source\tnarration_ind\tclip_start\tclip_end\tclip_text\n"
    egoclip.write_text(columns + "v0\tnarration_pass_1\t0\t5\t6\t#C C picks a cup\n")
    assert [record.query_id for record in narration_records(egoclip, clips)[0]] == ["c0_narrator-1_0"]


def shared_annotation(num_second=2):
    """Two clips whose annotations have the same uid, the first with three queries."""
    tree = official(query(), query(), query(start=7, end=9))
    second = official(*[query(start=20.0 + i, end=25.0 + i) for i in range(num_second)])["videos"][0]["clips"][0]
    tree["videos"][0]["clips"].append(second | {"clip_uid": "c1"})
    return tree


def test_ids_that_two_clips_have_get_the_clip_before_them_and_all_others_stay(tmp_path):
    file = read_nlq(write(tmp_path, shared_annotation()))
    assert [r.query_id for r in file.records] == ["c0--a0_0", "c0--a0_1", "a0_2", "c1--a0_0", "c1--a0_1"]
    assert {(r.clip_uid, r.annotation_uid) for r in file.records} == {("c0", "a0"), ("c1", "a0")}
    assert [r.query_idx for r in file.records] == [0, 1, 2, 0, 1]
    assert file.dirt["query ids in several clips"] == 4
    write_records(tmp_path / "r.jsonl", file.records)
    assert read_records(tmp_path / "r.jsonl") == file.records


def test_a_clip_that_stands_twice_with_other_annotations_is_one_clip(tmp_path):
    tree = official(query())
    clip = tree["videos"][0]["clips"][0]
    tree["videos"].append(
        {"clips": [clip | {"annotations": [{"annotation_uid": "a1", "language_queries": [query()]}]}]}
    )
    file = read_nlq(write(tmp_path, tree))
    assert [record.query_id for record in file.records] == ["a0_0", "a1_0"]
    assert [clip.clip_uid for clip in file.clips] == ["c0"]


def test_published_records_of_two_clips_with_the_same_ids_are_read_by_clip(tmp_path):
    records = [Record("a_0", clip, "Where?", 9.0, ((1.0, 2.0),)) for clip in ("c0", "c1")]
    write_records(tmp_path / "r.jsonl", [*records, Record("a_1", "c0", "Who?", 9.0)])
    assert [r.query_id for r in read_records(tmp_path / "r.jsonl")] == ["c0--a_0", "c1--a_0", "a_1"]
    write_records(tmp_path / "r.jsonl", [records[0], records[0]])
    with pytest.raises(DataError, match=r"line 2: duplicate query_id a_0 \(first at line 1\)"):
        read_records(tmp_path / "r.jsonl")


def test_a_submission_about_a_shared_annotation_is_scored_by_clip_also_where_answers_are_missing(tmp_path):
    records = read_nlq(write(tmp_path, shared_annotation())).records
    right = {r.query_id: np.array([[*r.moments_sec[0], 0.5]]) for r in records}
    for answered in (records, records[::-1], records[3:], records[1:4]):
        write_submission(tmp_path / "p.json", right, answered)
        evaluation = evaluate(tmp_path / "p.json", records)
        assert evaluation.official["R@1 IoU=0.5"] == 100
        assert evaluation.num_missing == len(records) - len(answered)


def test_duplicates_and_other_encodings_are_refused(tmp_path):
    tree = official(query())
    tree["videos"].append(tree["videos"][0])
    with pytest.raises(DataError, match=r"queries twice in a clip: a0_0 "):
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
