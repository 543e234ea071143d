"""Pyramid levels: on which of them moments, first predictions and first hits lie."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from groundnlq.analysis.candidates import LivePredictions
from groundnlq.analysis.diagnosis import Diagnosis
from groundnlq.view.style import ABOVE, BLACK, GREEN, SKY, new_figure


def level_table(diagnosis: Diagnosis) -> pd.DataFrame:
    """For each pyramid level the moments with positive points on it, the first predictions that come from it and how
    many of them are correct, and the first hits that come from it; in percent of the queries.

    Args:
        diagnosis: of `LivePredictions`.
    """
    run, table, rows = diagnosis.run, diagnosis.table.set_index("query_id"), {}
    assert isinstance(run, LivePredictions)
    decoded, places = (
        run.decode(diagnosis.settings),
        [i for i, r in enumerate(run.records) if r.query_id in table.index],
    )
    first = np.array([run.level_of(i, decoded.ranked[i, 0]) for i in places])
    rank = table["right rank"].where(table["right rank"] <= (diagnosis.settings or run.settings).top_k).to_numpy()
    found = np.array([run.level_of(i, decoded.ranked[i, int(k) - 1]) if k == k else -1
                      for i, k in zip(places, rank, strict=True)])  # fmt: skip
    for level in range(run.config.model.num_levels):
        rows[f"stride {2**level}"] = {
            "moments": 100 * np.mean([level in run.levels_reached[i] for i in places]),
            "first predictions": 100 * (first == level).mean(),
            "of these correct": 100 * (table["outcome"] == "hit")[first == level].mean(),
            "first hits": 100 * (found == level).mean(),
            "median moment [s]": table["moment_sec"][found == level].median(),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def level_bars(levels: pd.DataFrame) -> Figure:
    """`level_table` as bars."""
    figure = new_figure(6.5, 3.2)
    axis = figure.subplots()
    marks = (("moments", "0.8", ""), ("first predictions", SKY, ".."), ("first hits", GREEN, "//"))
    for shift, (name, color, hatch) in zip((-0.27, 0, 0.27), marks, strict=True):
        axis.bar(np.arange(len(levels)) + shift, levels[name], 0.26, color=color, hatch=hatch,
                 edgecolor=BLACK, linewidth=0.5, label=name)  # fmt: skip
    axis.set_xticks(range(len(levels)), [name.removeprefix("stride ") for name in levels.index])
    axis.set(xlabel="stride of the pyramid level", ylabel="queries [%]")
    axis.legend(fontsize=9, ncols=3, **ABOVE)
    return figure
