"""Room 2: the network, its targets and losses, and how its offsets become ranked moments."""
