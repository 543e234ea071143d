"""Numbers about predictions: recalls with intervals, baselines, ensembles, the diagnosis of a run."""
