"""The sample world: a simulated first-person life in the official files' formats, made on this machine."""
