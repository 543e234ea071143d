"""The sample world in the official formats, dirt included, so that it walks the path of real data."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from groundnlq.files import write_json, write_text
from groundnlq.sample.queries import Question, narrate
from groundnlq.sample.vocabulary import NOUN_CLASSES, VERB_CLASSES
from groundnlq.sample.world import ClipLog, Event, WorldConfig

_HEADER = (
    "clip_idx", "video_uid", "video_dur", "narration_source", "narration_ind", "narration_time",
    "clip_start", "clip_end", "clip_text", "tag_verb", "tag_noun",
)  # fmt: skip

_ABOUT = {"date": "260101", "description": "GroundNLQ sample world"}
Asked = list[tuple[ClipLog, list[Question]]]


def write_official(
    folder: Path, config: WorldConfig, logs: Mapping[str, list[ClipLog]], questions: Mapping[str, list[list[Question]]]
) -> dict[str, dict[str, Any]]:
    """Write all official files of a world; returns what each question is about, by split and query id."""
    asked = {split: list(zip(logs[split], lists, strict=True)) for split, lists in questions.items()}
    _write_nlq(folder / "nlq_train.json", config, asked["train"], "train")
    _write_nlq(folder / "nlq_val.json", config, asked["val"], "val")
    withheld = folder / "nlq_test_answers.json"
    _write_nlq(folder / "nlq_test_unannotated.json", config, asked["test"], "test", withheld)
    half = len(logs["narrated"]) // 2
    moments, visual = logs["train"][::2] + logs["narrated"][:half], logs["narrated"][half:] + logs["train"][:1]
    for name, of_task in (("moments_train", moments), ("vq_train", visual)):  # only their clips' times are read
        _write_tree(folder / f"{name}.json", of_task, [_clip(log, None) for log in of_task], version="2.0")
    _write_egoclip(folder / "egoclip.csv", config, logs["train"] + logs["narrated"] + logs["val"])
    write_json(folder / "egoclip_classes.json", {"verbs": VERB_CLASSES, "nouns": NOUN_CLASSES}, indent=1)
    return {split: _meanings(pairs, config) for split, pairs in asked.items()}


def _write_nlq(path: Path, config: WorldConfig, asked: Asked, split: str, answers: Path | None = None) -> None:
    """An NLQ file; with `answers` the file has queries only and the answers go to a file of their own."""
    random = config.stream("dirt", split)
    logs = [log for log, _ in asked]
    clips = [_clip(log, _queries(random, log, questions, split)) for log, questions in asked]
    _write_tree(answers or path, logs, clips, version="2.0", **_ABOUT)
    if answers:
        clips = [_without_answers(clip) for clip in clips]
        clips[0]["annotations"].append({"annotation_uid": f"empty-{split}", "language_queries": []})
        _write_tree(path, logs, clips, version="1", **_ABOUT)


def _write_egoclip(path: Path, config: WorldConfig, logs: Sequence[ClipLog]) -> None:
    """Narrations of all clips as one tab-separated table, a few lines malformed as in the real one."""
    random = config.stream("dirt", "egoclip")
    lines = ["\t".join(_HEADER)]
    for log in logs:
        for row in _narrations(config, log):
            fields = [str(len(lines) - 1), *row]
            lines.append("\t".join(fields))
            if random.random() < 0.002:
                lines.append("\t".join(fields[:5]))
    write_text(path, "\n".join(lines) + "\n")


def _meanings(asked: Asked, config: WorldConfig) -> dict[str, dict[str, Any]]:
    meanings = {}
    for log, questions in asked:
        for index, question in enumerate(questions):
            kind = config.kind_of((*question.asked.values(), question.event.object))
            meanings[f"{_annotation_uid(log)}_{index}"] = {
                "template": question.template,
                "asked": question.asked,
                "verb": question.event.verb,
                "object": question.event.object,
                "kind": kind,
                "is_unseen": kind == "unseen",
            }
    return meanings


def _write_tree(path: Path, logs: Sequence[ClipLog], clips: Sequence[dict], **head: str) -> None:
    videos: dict[str, list] = {}
    for log, clip in zip(logs, clips, strict=True):
        videos.setdefault(log.video_uid, []).append(clip)
    listed = [{"video_uid": uid, "clips": of_video} for uid, of_video in videos.items()]
    write_json(path, head | {"videos": listed}, indent=1)


def _clip(log: ClipLog, queries: list[dict] | None) -> dict[str, Any]:
    start, end = log.video_start_sec, round(log.video_start_sec + log.duration_sec, 3)
    annotation = {"annotation_uid": _annotation_uid(log), "language_queries": queries}
    return {
        "clip_uid": log.clip_uid,
        "source_clip_uid": log.clip_uid,
        "video_start_sec": start - 4e-7 if start == 0 else start,
        "video_end_sec": end,
        "video_start_frame": round(start * 30),
        "video_end_frame": round(end * 30),
        "clip_start_sec": 0.0,
        "clip_end_sec": round(log.duration_sec + 0.02, 3),
        "clip_start_frame": 0,
        "clip_end_frame": round(log.duration_sec * 30),
        "annotations": [] if queries is None else [annotation],
    }


def _annotation_uid(log: ClipLog) -> str:
    return log.clip_uid[:8] + "-" + log.clip_uid[-12:]


def _queries(random: np.random.Generator, log: ClipLog, questions: list[Question], split: str) -> list[dict[str, Any]]:
    queries = [_query(random, log, question, split) for question in questions]
    if random.random() < 0.05:  # an annotator opened the form and wrote nothing
        queries.append({"query": None if split != "test" else "", "clip_start_sec": 0.0, "clip_end_sec": 1.0})
    return queries


def _query(random: np.random.Generator, log: ClipLog, question: Question, split: str) -> dict[str, Any]:
    start, end = _annotated(random, question.event, log)
    offset = log.video_start_sec
    return {
        "query": _typed(random, question.text, split),
        "template": question.template if random.random() > 0.004 else None,
        "slot_x": question.asked.get("object", ""),
        "verb_x": question.asked.get("verb", ""),
        "answer": question.event.container or question.event.place,
        "clip_start_sec": start,
        "clip_end_sec": end,
        "video_start_sec": round(start + offset, 3),
        "video_end_sec": round(end + offset, 3),
        "video_start_frame": round((start + offset) * 30),
        "video_end_frame": round((end + offset) * 30),
    }


def _annotated(random: np.random.Generator, event: Event, log: ClipLog) -> tuple[float, float]:
    """An annotator's moment: the event with a little slack, in a few cases beyond the clip's end."""
    before, after = random.uniform(0, 0.3, size=2)
    start, end = max(0.0, event.start_sec - before), min(log.duration_sec, event.end_sec + after)
    if log.duration_sec - end < 2 and random.random() < 0.3:
        end = log.duration_sec + random.uniform(0.05, 0.6)
    return round(start, 3), round(end, 3)


def _typed(random: np.random.Generator, text: str, split: str) -> str:
    """The text as annotators typed it."""
    prefix, no_mark, spaces = random.random(3)
    text = text.rstrip("?") if no_mark < 0.17 else text
    text = text.replace(" the ", "  the ", 1) if spaces < 0.05 else text
    text = text + " " if spaces > 0.95 else text
    return f"Query Text: {text}" if split == "val" and prefix < 0.1 else text


def _without_answers(clip: dict[str, Any]) -> dict[str, Any]:
    (annotation,) = clip["annotations"]
    queries = [{"query": query["query"]} for query in annotation["language_queries"]]
    return clip | {"annotations": [annotation | {"language_queries": queries}]}


def _narrations(config: WorldConfig, log: ClipLog) -> list[list[str]]:
    random = config.stream("narrations", log.split, log.clip_uid)
    rows = []
    for index, event in enumerate(log.events):
        for narrator in (1, 2):
            if narrator == 1 or random.random() < 0.8:
                # an instant near the middle of the action, as a narrator marks it
                middle, spread = (event.start_sec + event.end_sec) / 2, (event.end_sec - event.start_sec) / 6
                time = log.video_start_sec + random.normal(middle, spread)
                half = random.uniform(0.4, 1.2)
                times = [f"{t:.4f}" for t in (time, time - half, time + half)]
                noun = event.object or event.container or event.person or ""
                classes = [f"[{VERB_CLASSES.index(event.verb)}]", f"[{NOUN_CLASSES.index(noun)}]"]
                text = _sentence(random, log.events, index) if narrator == 2 else narrate(event)
                about = [log.video_uid, f"{2.4 * config.clip_length_sec:.3f}", f"narration_pass_{narrator}", str(index)]
                rows.append([*about, *times, text, *classes])
    return rows


def _sentence(random: np.random.Generator, events: Sequence[Event], index: int) -> str:
    """What the second narrator says: more of the story, so that "before" and "after" can be learned."""
    relation, step = (("before", 1), ("after", -1))[int(random.integers(2))]
    event, beside = events[index], index + step
    if 0 <= beside < len(events) and events[beside].object not in (None, event.object):
        return narrate(event, relation, events[beside])
    return narrate(event)
