"""Training runs on sample worlds of several seeds, which test the claims about these worlds."""
