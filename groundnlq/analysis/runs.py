"""Any number of runs over the same queries, as equals: recalls, differences of all pairs, seeds, and who found what.

`tables` are by name of the run, each as `outcomes.diagnose` gives it, with the same queries in the same order.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from itertools import combinations

import pandas as pd

from groundnlq.analysis.intervals import holm, paired_summary, replicate_summary, share_summary
from groundnlq.analysis.outcomes import RIGHT

_SEED = re.compile(r"[-_. ]*seed[-_. =]*\d+", re.IGNORECASE)
Tables = Mapping[str, pd.DataFrame]


def hits_of(tables: Tables) -> pd.DataFrame:
    """(Q, runs) bool: is the first answer correct?"""
    return pd.DataFrame({name: table["outcome"].eq("hit") for name, table in tables.items()})


def recalls_of_runs(tables: Tables) -> pd.DataFrame:
    """A row a run: recalls, and the share of queries that this run alone hits; and what any and every run hits."""
    hits, clips = hits_of(tables), next(iter(tables.values()))["clip_uid"]
    means = {**hits, "any run": hits.any(axis=1), "every run": hits.all(axis=1)}
    rows = {name: share_summary("R@1", clips, means[name]) for name in means}
    for name, table in tables.items():
        alone = hits[name] & (hits.sum(axis=1) == 1)
        rows[name] |= {"R@k": 100 * table["outcome"].isin(RIGHT).mean(), "only this run": 100 * alone.mean()}
    return pd.DataFrame.from_dict(rows, orient="index")


def all_pairs(tables: Tables) -> pd.DataFrame:
    """R@1 of each run minus that of each later one (see `paired_summary`), corrected for the number of pairs."""
    hits, clips, rows = hits_of(tables), next(iter(tables.values()))["clip_uid"], {}
    for one, other in combinations(hits, 2):
        rows[one, other] = paired_summary(clips, 100.0 * (hits[one].astype(int) - hits[other]))
    frame = pd.DataFrame(list(rows.values()), pd.MultiIndex.from_tuples(list(rows), names=["run", "minus"]))
    return frame.assign(**{"p (Holm)": holm(frame["p"].to_numpy())})


def trainings(tables: Tables) -> pd.DataFrame:
    """R@1 of runs whose names differ in ``seed1``, ``seed2`` ... only, as trainings of one setting, and the difference
    of each two settings; the intervals cover clips and trainings (see `replicate_summary`). ``every`` and ``any``:
    share of the queries that all trainings, or one of them, hit. Empty without such runs."""
    hits, clips, names = hits_of(tables), next(iter(tables.values()))["clip_uid"], defaultdict[str, list[str]](list)
    for name in hits:
        names[_SEED.sub("", name).strip("-_. ")].append(name)
    values = {setting: 100.0 * hits[own].to_numpy(float).T for setting, own in names.items()}
    rows = {
        setting: replicate_summary("R@1", clips, own)
        | {"trainings": len(own), "every": own.min(axis=0).mean(), "any": own.max(axis=0).mean()}
        for setting, own in values.items()
        if len(own) > 1
    }
    for one, other in combinations(values, 2) if rows else ():
        rows[f"{one} minus {other}"] = replicate_summary("R@1", clips, values[one], values[other])
    return pd.DataFrame.from_dict(rows, orient="index")


def found_by(tables: Tables) -> dict[str, pd.DataFrame]:
    """Rows of the first table: queries that its run won and lost against each other run, and that no run finds."""
    (name, table), *others = tables.items()
    hits, lists = hits_of(tables), dict[str, pd.DataFrame]()
    for other, _ in others:
        is_won, is_lost = hits[name] & ~hits[other], hits[other] & ~hits[name]
        lists |= {f"won against {other}": table[is_won], f"lost against {other}": table[is_lost]}
    return lists | {"found by no run": table[~hits.any(axis=1)]}
