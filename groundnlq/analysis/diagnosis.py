"""Diagnosis of a run: all tables about its outcomes, beside any number of other runs."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from groundnlq.analysis.agreement import agreement
from groundnlq.analysis.candidates import FixedPredictions, SplitPredictions
from groundnlq.analysis.evaluation import by_record
from groundnlq.analysis.events import SHOWN, Events, Meaning, random_segments_like, read_events, shares_half
from groundnlq.analysis.intervals import HIGH, LOW, p_text, share_summary
from groundnlq.analysis.outcomes import OUTCOMES, check_threshold, diagnose, outcome_codes
from groundnlq.analysis.regression import held_recalls
from groundnlq.analysis.runs import hits_of
from groundnlq.analysis.sensitivity import kinds_of_query, paired_difference, sensitivity
from groundnlq.config import DecodeConfig
from groundnlq.data.annotations import read_scenarios, read_truth
from groundnlq.data.recall import THRESHOLDS, best_tiou
from groundnlq.data.records import Record
from groundnlq.data.submission import read_submission
from groundnlq.errors import DataError, sample_of
from groundnlq.provenance import file_identity

AS_IT_IS = "as it is"  # the first row of `oracle_gains`
NUM_BINS = 8  # of calibration
WITHIN_SEC, WITHIN_EVENTS = (2, 5, 10, 20, 50, 100, 200), (0, 1, 2, 5, 10)


@dataclass(frozen=True)
class Diagnosis:
    """All tables about a run, and beside any number of others; shares in percent, gains in points.

    Args:
        run, others: over the same records.
        train: records of the train split, for words and how often they occur there.
        threshold: tIoU above which a prediction is right.
        settings: of decoding; by default each run's own.
        events: of the clips, to see what answers show (see `events.read_events`).
        data, inputs: name of the split and provenance of the files, for the report.
        scenarios: by video_uid (see `annotations.read_scenarios`).
    """

    name: str
    run: SplitPredictions
    others: Mapping[str, SplitPredictions] = field(default_factory=dict)
    train: Sequence[Record] = ()
    threshold: float = THRESHOLDS[0]
    settings: DecodeConfig | None = None
    events: Events = field(default_factory=dict)
    data: str = ""
    inputs: Mapping[str, Any] = field(default_factory=dict)
    scenarios: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_threshold(self.threshold)

    @classmethod
    def of_files(
        cls, predictions: Sequence[Path], truth: Path, *, events: Path | None = None, train: Path | None = None,
        ego4d: Path | None = None, threshold: float = THRESHOLDS[0], top_k: int = DecodeConfig().top_k,
    ) -> Self:  # fmt: skip
        """Of submission files of any program, the first one against the others; `truth` and `train` are official files
        or records, `events` as `read_events` takes them, `ego4d` is Ego4D's ``ego4d.json``."""
        records, names = read_truth(truth), _names_of(predictions)
        runs = [FixedPredictions(records, by_record(records, read_submission(path))) for path in predictions]
        more: dict[str, Any] = {
            "events": read_events(events, truth) if events else {},
            "train": read_truth(train) if train else (),
            "scenarios": read_scenarios(ego4d) if ego4d else {},
        }
        files = filter(None, (*predictions, truth, events, train, ego4d))
        inputs = {"files": {str(path): file_identity(path)["sha256"] for path in files}, "top_k": top_k}
        others, settings = dict(zip(names[1:], runs[1:], strict=True)), DecodeConfig(top_k=top_k)
        more |= {"threshold": threshold, "settings": settings, "data": truth.stem, "inputs": inputs}
        return cls(names[0], runs[0], others, **more)

    @property
    def top_k(self) -> int:
        """Number of predictions that count."""
        return (self.settings or self.run.settings).top_k

    @property
    def table(self) -> pd.DataFrame:
        """One row a query (see `diagnose`)."""
        return self.tables[self.name]

    @cached_property
    def tables(self) -> dict[str, pd.DataFrame]:
        """`table` of the run and of the others."""
        runs = {self.name: self.run, **self.others}
        return {name: diagnose(run, self.threshold, self.settings, self.events) for name, run in runs.items()}

    @cached_property
    def queries(self) -> pd.DataFrame:
        """`table` with the groups of each query and the columns of the other runs, for a file."""
        frame = self.table.join(self.kinds.drop(columns="template"), on="query_id")
        for name in self.others:
            own = self.tables[name][["query_id", "outcome", "first_start_sec", "first_end_sec", "first tIoU", "shows"]]
            frame = frame.merge(own.rename(columns=lambda c, n=name: c if c == "query_id" else f"{n}: {c}"), how="left")
        return frame.assign(**{"runs that hit": hits_of(self.tables).sum(axis=1).to_numpy()})

    @cached_property
    def shown(self) -> dict[str, pd.DataFrame]:
        """For each run what its wrong first answers show, as far as the events tell: share of these answers with its
        interval, and the share that chance gives (see `Meaning.shown_by_chance`). Empty without events."""
        tables: dict[str, pd.DataFrame] = {}
        for name, table in self.tables.items():
            wrong = table[table["shows"].notna() & (table["shows"] != "hit")]
            chance = [Meaning.of(record, self.events).shown_by_chance(record, places[0], self.threshold)
                      for record, places in self._answers(wrong)]  # fmt: skip
            rows = {}
            means = pd.DataFrame(map(np.ravel, chance)).mean().to_numpy()  # without NaN
            for place, kind in enumerate(SHOWN) if chance else ():
                event, segment = 100 * means[place :: len(SHOWN)]
                share = share_summary("wrong answers", wrong["clip_uid"], wrong["shows"] == kind)
                by_chance = {"random event": event, "random segment": segment}
                rows[kind] = share | by_chance | {"queries": int((wrong["shows"] == kind).sum())}
            tables |= {name: pd.DataFrame.from_dict(rows, orient="index").drop("hit")} if rows else {}
        return tables

    @cached_property
    def confusion(self) -> pd.DataFrame:
        """Template of the query by the template of the query of its clip that a wrong first answer hits: how many,
        and how many a segment as long as the answer, anywhere in the clip, would hit. The first row is all."""
        of_clip, counts = defaultdict[str, list](list), {("(all)", "(all)"): np.zeros(2)}
        for record in self.run.records:
            of_clip[record.clip_uid] += [record] if record.moments_sec else []
        for record, places in self._answers(self.table):
            moments = defaultdict[str, list](list)
            for other in (other for other in of_clip[record.clip_uid] if other is not record):
                moments[other.template or "(none)"] += other.moments_sec
            moments["(all)"] = [moment for own in moments.values() for moment in own]
            for template, own in moments.items():
                is_hit = best_tiou(places, own) > self.threshold
                pair = ("(all)" if template == "(all)" else record.template or "(none)", template)
                counts[pair] = counts.get(pair, 0) + np.array([is_hit[0], is_hit[1:].mean() if len(is_hit) > 1 else 0])
        frame = pd.DataFrame(counts, index=["wrong answers", "by chance"]).T.rename_axis(["asked", "answered"])
        return frame.sort_values("wrong answers", ascending=False, kind="stable")

    @cached_property
    def distances(self) -> pd.DataFrame:
        """Share of the wrong first answers whose middle lies within some seconds of the moment's, or with so many
        events between the two, if `events` are known; and of segments as long, anywhere in the clip."""
        index = [f"within {seconds} s" for seconds in WITHIN_SEC]
        index += [f"events between: at most {num}" for num in WITHIN_EVENTS if self.events]
        rows = []
        for record, places in self._answers(self.table):
            moment, events = np.array(record.moments_sec[:1]), self.events.get(record.clip_uid, ())
            near = np.abs(places.mean(axis=1) - moment.mean())[:, None] <= WITHIN_SEC
            if self.events:
                times = np.array([(e.start_sec, e.end_sec) for e in events]).reshape(-1, 2)
                ends = np.sort([places.mean(axis=1), np.full(len(places), moment.mean())], axis=0)[..., None]
                between = (ends[0] < times.mean(axis=1)) & (times.mean(axis=1) < ends[1])
                between &= ~shares_half(places[:, None], times) & ~shares_half(moment, times)
                near = np.hstack([near, between.sum(axis=1)[:, None] <= WITHIN_EVENTS])
            rows.append([near[0], near[1:].mean(axis=0) if len(near) > 1 else near[0]])
        shares = 100 * np.mean(rows, axis=0) if rows else np.full((2, len(index)), np.nan)
        return pd.DataFrame(shares.T, index=index, columns=["wrong answers", "by chance"])

    def _answers(self, table: pd.DataFrame) -> list[tuple[Record, np.ndarray]]:
        """Records whose first answer is wrong, with (1 + N, 2) seconds: this answer, and N segments of its length."""
        wrong = table[(table["outcome"] != "hit") & table["first_start_sec"].notna()]
        answers = dict(zip(wrong["query_id"], wrong[["first_start_sec", "first_end_sec"]].to_numpy(), strict=True))
        pairs = [(record, answers[record.query_id]) for record in self.run.records if record.query_id in answers]
        return [(r, np.vstack([answer, random_segments_like(answer, r, self.threshold)])) for r, answer in pairs]

    @cached_property
    def by_threshold(self) -> pd.DataFrame:
        """Shares of the outcomes at several tIoU thresholds."""
        settings, shares = self.settings or self.run.settings, {}
        for threshold in sorted({0.1, *THRESHOLDS, 0.7, self.threshold}):
            codes = outcome_codes(self.run, threshold, settings, self.events)
            shares[f"tIoU > {threshold:g}"] = [100 * np.mean(codes[codes >= 0] == n) for n in range(len(OUTCOMES))]
        return pd.DataFrame(shares, index=list(OUTCOMES))

    @cached_property
    def oracle_gains(self) -> pd.DataFrame:
        """Recalls if an oracle corrected one outcome and nothing else, and the gain at rank 1 with its 95 % interval.

        The outcomes exclude each other, so R@1 and their gains add up to 100. Two other oracles follow: *boundaries*
        gives predictions that lie on the moment the true start and end, *order* puts the best of the top k first.
        """
        corrected = {name: (self.table["outcome"] == name).to_numpy() for name in OUTCOMES}
        hit = corrected.pop("hit")
        right, on_moment = hit | corrected["ranking within k"], self.table["any on moment"].to_numpy(bool)
        corrected |= {"oracle: boundaries": self.table["first on moment"].to_numpy(bool), "oracle: order": right}
        rows = {AS_IT_IS: {"R@1": 100 * hit.mean(), "R@k": 100 * right.mean(), "gain": 0.0, LOW: 0.0, HIGH: 0.0}}
        for name, mask in corrected.items():
            at_k = right | (on_moment if name == "oracle: boundaries" else mask)
            recalls = {"R@1": 100 * (hit | mask).mean(), "R@k": 100 * at_k.mean()}
            rows[name] = recalls | share_summary("gain", self.table["clip_uid"], mask & ~hit)
        return pd.DataFrame.from_dict(rows, orient="index")

    @cached_property
    def calibration(self) -> pd.DataFrame:
        """Mean score of the first answer and how often it is right, in 8 bins of equally many queries.

        ``attrs["error"]`` is the expected calibration error in points (Naeini et al. 2015).
        """
        rows, ordered = [], self.table.sort_values("score", kind="stable")
        for places in np.array_split(np.arange(len(ordered)), max(1, min(NUM_BINS, len(ordered)))):
            part = ordered.iloc[places]
            rate = share_summary("hit rate", part["clip_uid"], part["outcome"] == "hit")
            rows.append({"score": part["score"].mean(), **rate, "queries": len(part)})
        frame = pd.DataFrame(rows)
        gap = (100 * frame["score"] - frame["hit rate"]).abs()
        frame.attrs["error"] = float((gap * frame["queries"]).sum() / frame["queries"].sum())
        return frame

    @cached_property
    def kinds(self) -> pd.DataFrame:
        """The group of every query under each kind (see `kinds_of_query`)."""
        return kinds_of_query(self.run.records, self.train, self.events, self.scenarios)

    @cached_property
    def sensitivity(self) -> pd.DataFrame:
        """R@1 of each group of each kind of query."""
        return sensitivity(self.table, self.kinds)

    @cached_property
    def held(self) -> pd.DataFrame:
        """The same with all other kinds held (see `held_recalls`)."""
        return held_recalls(self.table, self.kinds)

    @cached_property
    def differences(self) -> dict[str, pd.DataFrame]:
        """For each other run, R@1 of the run minus its own, over all queries and in each group."""
        return {name: paired_difference(self.tables[name], self.table, self.kinds) for name in self.others}

    def summary(self) -> str:
        """The most important numbers, in one sentence each."""
        now = self.oracle_gains.loc[AS_IT_IS]
        gains = self.oracle_gains.loc[[n for n in OUTCOMES if n != "hit"], "gain"].sort_values(ascending=False)
        largest = ", ".join(f"{name} {gain:.1f}" for name, gain in gains[:2].items())
        lines = [
            f"{self.name}: R@1 IoU={self.threshold:g} is {now['R@1']:.1f} %, R@{self.top_k} {now['R@k']:.1f} "
            f"%, over {len(self.table)} queries of {self.table['clip_uid'].nunique()} clips.",
            *(self._what_is_shown() if self.name in self.shown else []),
            f"Largest oracle gains [points]: {largest}.",
        ]
        if wrong := len(self._answers(self.table)):
            others = 100 * self.confusion.loc[("(all)", "(all)")] / wrong
            lines.append(
                f"{others['wrong answers']:.0f} % of the wrong answers hit another query's moment; segments of their "
                f"length, anywhere in the clip, would in {others['by chance']:.0f} %."
            )
        lines.append(f"Score and hit rate differ by {self.calibration.attrs['error']:.1f} points on average.")
        matter = dict.fromkeys(key[0] for key in self.held.index[self.held["p (Holm)"] < 0.05])
        lines.append(f"Kinds of query that matter with all others held: {', '.join(matter) or 'none is certain'}.")
        for _, pairs in agreement(self.run.records, self.threshold).filter(["same words"], axis=0).iterrows():
            lines.append(
                f"Of {pairs['pairs']:.0f} pairs of questions of a clip with the same words, the moment of one is right "
                f"for the other in {pairs['agree']:.0f} %."
            )
        for name, differences in self.differences.items():
            row = differences.iloc[0]
            lines.append(
                f"Against {name}: {row['difference']:+.1f} points at rank 1 "
                f"[{row[LOW]:+.1f}, {row[HIGH]:+.1f}], {row['won']:.0f} queries won, {row['lost']:.0f} lost, "
                f"{p_text(row['p'])}; these queries can show a difference of {row['detectable']:.1f}."
            )
        if self.others:
            missed = 100 * (~hits_of(self.tables).any(axis=1)).mean()
            lines.append(f"No run finds {missed:.0f} % of the queries.")
        return "\n".join(lines)

    def _what_is_shown(self) -> list[str]:
        """The most frequent thing that wrong answers show, and whether chance explains it."""
        table = self.shown[self.name]
        row, kind = table.loc[table["wrong answers"].idxmax()], table["wrong answers"].idxmax()
        by_chance = row[["random event", "random segment"]]
        verdict = "less than" if row[HIGH] < by_chance.min() else "about as often as"
        verdict = "more than" if row[LOW] > by_chance.max() else verdict
        return [
            f"{row['wrong answers']:.0f} % of the {table['queries'].sum():.0f} wrong answers show: {SHOWN[str(kind)]}, "
            f"{verdict} chance gives (another event of the clip {by_chance.iloc[0]:.0f} %, a segment of that length "
            f"{by_chance.iloc[1]:.0f} %)."
        ]


def _names_of(paths: Sequence[Path]) -> list[str]:
    """The file's name, with as many folders before it as tell the runs apart."""
    for depth in range(1, 6):
        names = ["-".join(path.absolute().with_suffix("").parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    raise DataError(f"{sample_of(paths)}: the same name twice -- rename a file or its folder")
