"""Training runs over several seeds that hold what the sample world is said to teach."""
