"""Own video: frames, encoders, and the features that they make."""
