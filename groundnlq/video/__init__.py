"""Own video: frames, the published video encoders, and features made with them."""
