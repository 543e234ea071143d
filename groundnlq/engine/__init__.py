"""Room 3: training, checkpoints and prediction over a split."""
