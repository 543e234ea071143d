"""Diagnosis of a run: all tables about its outcomes, beside any number of other runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from groundnlq.analysis.candidates import LivePredictions, SplitPredictions
from groundnlq.analysis.events import SHOWN, Events, Meaning, random_segments_like
from groundnlq.analysis.intervals import HIGH, LOW, p_text, share_summary
from groundnlq.analysis.outcomes import OUTCOMES, RIGHT, check_threshold, diagnose, outcome_codes
from groundnlq.analysis.sensitivity import kinds_of_query, paired_difference, sensitivity
from groundnlq.config import DecodeConfig
from groundnlq.data.recall import THRESHOLDS, best_tiou
from groundnlq.data.records import Record

AS_IT_IS = "as it is"  # the first row of `oracle_gains`
NUM_BINS = 8  # of calibration
WITHIN_SEC = (2, 5, 10, 20, 50, 100, 200)


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

    def __post_init__(self) -> None:
        check_threshold(self.threshold)

    @property
    def table(self) -> pd.DataFrame:
        """One row a query (see `diagnose`)."""
        return self.tables[self.name]

    @cached_property
    def tables(self) -> dict[str, pd.DataFrame]:
        """`table` of the other runs and of the run."""
        runs = {**self.others, self.name: self.run}
        return {name: diagnose(run, self.threshold, self.settings, self.events) for name, run in runs.items()}

    @cached_property
    def queries(self) -> pd.DataFrame:
        """`table` with the groups of each query and the columns of the other runs, for a file."""
        frame = self.table.join(self.kinds.drop(columns="template"), on="query_id")
        for name in self.others:
            own = self.tables[name][["query_id", "outcome", "first_start_sec", "first_end_sec", "first tIoU", "shows"]]
            frame = frame.merge(own.rename(columns=lambda c, n=name: c if c == "query_id" else f"{n}: {c}"), how="left")
        return frame

    @cached_property
    def runs(self) -> pd.DataFrame:
        """A row a run: recalls, and the share of queries that this run alone hits; and what any and all runs hit."""
        hits = pd.DataFrame({n: t.set_index("query_id")["outcome"].eq("hit") for n, t in self.tables.items()})
        clips = self.table.set_index("query_id")["clip_uid"].reindex(hits.index)
        rows = {name: share_summary("R@1", clips, hits[name]) for name in hits}
        for name, row in rows.items():
            row["R@k"] = 100 * float(self.tables[name]["outcome"].isin(RIGHT).mean())
            row["only this run"] = 100 * float((hits[name] & (hits.sum(axis=1) == 1)).mean())
        if self.others:
            rows |= {
                f"{n} run": share_summary("R@1", clips, h)
                for n, h in (("any", hits.any(axis=1)), ("every", hits.all(axis=1)))
            }
        return pd.DataFrame.from_dict(rows, orient="index")

    @cached_property
    def shown(self) -> dict[str, pd.DataFrame]:
        """For each run what its wrong first answers show, as far as the events tell: share of these answers with its
        interval, and the share that chance gives (see `Meaning.shown_by_chance`). Empty without events."""
        tables = {}
        for name, table in self.tables.items():
            wrong = table[table["shows"].notna() & (table["shows"] != "hit")]
            chance = [Meaning.of(record, self.events).shown_by_chance(record, answer, self.threshold)
                      for record, answer in self._answers(wrong)]  # fmt: skip
            rows = {}
            for place, kind in enumerate(SHOWN) if chance else ():
                event, segment = 100 * np.nanmean(chance, axis=0)[:, place]
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
        for record, answer in self._answers(self.table):
            moments = defaultdict[str, list](list)
            for other in (other for other in of_clip[record.clip_uid] if other is not record):
                moments[other.template or "(none)"] += other.moments_sec
            moments["(all)"] = [moment for own in moments.values() for moment in own]
            places = np.vstack([answer, random_segments_like(answer, record, self.threshold)])
            for template, own in moments.items():
                is_hit = best_tiou(places, own) > self.threshold
                pair = ("(all)" if template == "(all)" else record.template or "(none)", template)
                counts[pair] = counts.get(pair, 0) + np.array([is_hit[0], is_hit[1:].mean() if len(is_hit) > 1 else 0])
        frame = pd.DataFrame(counts, index=["wrong answers", "by chance"]).T.rename_axis(["asked", "answered"])
        return frame.sort_values("wrong answers", ascending=False, kind="stable")

    @cached_property
    def distances(self) -> pd.DataFrame:
        """Share of the wrong first answers whose middle lies within some seconds of the moment's: as it is, and for
        segments as long, anywhere in the clip."""
        rows = []
        for record, answer in self._answers(self.table):
            places = np.vstack([answer, random_segments_like(answer, record, self.threshold)]).mean(axis=1)
            near = np.abs(places - np.mean(record.moments_sec[0]))[:, None] <= WITHIN_SEC
            rows.append([near[0], near[1:].mean(axis=0) if len(near) > 1 else near[0]])
        shares = 100 * np.mean(rows, axis=0) if rows else np.full((2, len(WITHIN_SEC)), np.nan)
        index = [f"within {seconds} s" for seconds in WITHIN_SEC]
        return pd.DataFrame(shares.T, index=index, columns=["wrong answers", "by chance"])

    def _answers(self, table: pd.DataFrame) -> list[tuple[Record, np.ndarray]]:
        """Records and first answers (2,) in seconds of the wrong ones of a table."""
        wrong = table[(table["outcome"] != "hit") & table["first_start_sec"].notna()]
        answers = dict(zip(wrong["query_id"], wrong[["first_start_sec", "first_end_sec"]].to_numpy(), strict=True))
        return [(record, answers[record.query_id]) for record in self.run.records if record.query_id in answers]

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
        """Recalls if an oracle corrected one outcome and nothing else.

        The outcomes exclude each other, so R@1 and their gains add up to 100. Two other oracles follow:
        *boundaries* gives every prediction that lies on the moment the true start and end, *order* puts the
        best of the top k first.

        Returns:
            a row an outcome: share of the queries, ``R@1`` and ``R@k`` with the oracle, gain at rank 1 with
            its 95 % interval.
        """
        outcome = self.table["outcome"]
        is_outcome = {name: (outcome == name).to_numpy() for name in OUTCOMES}
        hit = is_outcome.pop("hit")
        right = hit | is_outcome["ranking within k"]
        recalls = {AS_IT_IS: (hit, right)} | {n: (hit | mask, right | mask) for n, mask in is_outcome.items()}
        on_moment = [self.table[f"{name} on moment"].to_numpy(bool) for name in ("first", "any")]
        recalls |= {"oracle: boundaries": tuple(on_moment), "oracle: order": (right, right)}
        rows = {}
        for name, (at_1, at_k) in recalls.items():
            shares = {AS_IT_IS: hit} | is_outcome
            queries = 100 * shares[name].mean() if name in shares else np.nan
            gain = share_summary("gain", self.table["clip_uid"], at_1 & ~hit)
            rows[name] = {"queries": queries, "R@1": 100 * at_1.mean(), "R@k": 100 * at_k.mean(), **gain}
        rows[AS_IT_IS] |= {LOW: 0.0, HIGH: 0.0}
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
    def levels(self) -> pd.DataFrame | None:
        """For each pyramid level the moments with positive points on it, the first predictions that come from it
        and how many of them are correct, and the first hits that come from it; None for predictions of a file."""
        if not isinstance(self.run, LivePredictions):
            return None
        run, table, rows = self.run, self.table, {}
        reached = dict(zip((r.query_id for r in run.records), run.levels_reached, strict=True))
        for level in range(run.config.model.num_levels):
            is_first, is_found = table["level"] == level, table["found by"] == level
            rows[f"stride {2**level}"] = {
                "moments": 100 * np.mean([level in reached[query_id] for query_id in table["query_id"]]),
                "first predictions": 100 * is_first.mean(),
                "of these correct": 100 * (table.loc[is_first, "outcome"] == "hit").mean(),
                "first hits": 100 * is_found.mean(),
                "median moment [s]": table.loc[is_found, "moment_sec"].median(),
            }
        return pd.DataFrame.from_dict(rows, orient="index")

    @cached_property
    def kinds(self) -> pd.DataFrame:
        """The group of every query under each kind (see `kinds_of_query`)."""
        return kinds_of_query(self.run.records, self.train, self.events)

    @cached_property
    def sensitivity(self) -> pd.DataFrame:
        """R@1 of each group of each kind of query."""
        return sensitivity(self.table, self.kinds)

    @cached_property
    def differences(self) -> dict[str, pd.DataFrame]:
        """For each other run, R@1 of the run minus its own, over all queries and in each group."""
        return {name: paired_difference(self.tables[name], self.table, self.kinds) for name in self.others}

    @cached_property
    def changes(self) -> dict[str, pd.DataFrame]:
        """For each other run, how many queries went from which outcome of it (rows) to which of the run (columns)."""
        after, changes = self.table.set_index("query_id")["outcome"], {}
        for name in self.others:
            one = self.tables[name]
            outcomes = one["outcome"].to_numpy(), after.reindex(one["query_id"]).to_numpy()
            changes[name] = pd.crosstab(*outcomes, rownames=["from"], colnames=["to"])
        return changes

    def summary(self) -> str:
        """The most important numbers, in one sentence each."""
        now = self.oracle_gains.loc[AS_IT_IS]
        gains = self.oracle_gains.loc[[n for n in OUTCOMES if n != "hit"], "gain"].sort_values(ascending=False)
        largest = ", ".join(f"{name} {gain:.1f}" for name, gain in gains[:2].items())
        missed, top_k = self.table[self.table["outcome"] != "hit"], (self.settings or self.run.settings).top_k
        lines = [
            f"{self.name}: R@1 IoU={self.threshold:g} is {now['R@1']:.1f} %, R@{top_k} {now['R@k']:.1f} "
            f"%, over {len(self.table)} queries of {self.table['clip_uid'].nunique()} clips.",
            *(self._what_is_shown() if self.name in self.shown else []),
            f"Largest oracle gains [points]: {largest}.",
        ]
        if len(missed):
            others = 100 * self.confusion.loc[("(all)", "(all)")] / len(missed)
            lines.append(
                f"{others['wrong answers']:.0f} % of the wrong answers hit another query's moment; segments of their "
                f"length, anywhere in the clip, would in {others['by chance']:.0f} %."
            )
        lines.append(f"Score and hit rate differ by {self.calibration.attrs['error']:.1f} points on average.")
        for name, differences in self.differences.items():
            row = differences.iloc[0]
            lines.append(
                f"Against {name}: {row['difference']:+.1f} points at rank 1 "
                f"[{row[LOW]:+.1f}, {row[HIGH]:+.1f}], {row['won']:.0f} queries won, {row['lost']:.0f} lost, "
                f"{p_text(row['p'])}; these queries can show a difference of {row['detectable']:.1f}."
            )
        return "\n".join(lines)

    def _what_is_shown(self) -> list[str]:
        """The most frequent thing that wrong answers show, and whether chance explains it."""
        table = self.shown[self.name]
        row, kind = table.loc[table["wrong answers"].idxmax()], table["wrong answers"].idxmax()
        by_chance = row[["random event", "random segment"]]
        verdict = (
            "more than" if row[LOW] > by_chance.max() else "less than" if row[HIGH] < by_chance.min() else "about as"
        )
        verdict += " chance gives" if verdict != "about as" else " often as chance gives"
        return [
            f"{row['wrong answers']:.0f} % of the {table['queries'].sum():.0f} wrong answers show: {SHOWN[str(kind)]}. "
            f"That is {verdict} (another event of the clip {by_chance.iloc[0]:.0f} %, a segment of that length "
            f"{by_chance.iloc[1]:.0f} %)."
        ]
