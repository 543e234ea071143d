"""Room 4: what the predictions are worth, and why; figures and widgets."""
