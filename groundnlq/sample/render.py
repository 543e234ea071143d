"""From the event log to features: what each step shows, through a text encoder, under noise and drift."""

from __future__ import annotations

import numpy as np

from groundnlq.data.grid import StepGrid
from groundnlq.sample.vocabulary import ALL_OBJECTS, CONTAINERS, PERSONS, PLACES, VERBS
from groundnlq.sample.world import ClipLog, WorldConfig

# slot -> (source, amplitude, words): what a camera shows clearly is strong, what it shows vaguely is weak
SLOTS = {
    "verb": ("action", 1.3, tuple(VERBS)),
    "object": ("action", 1.6, ALL_OBJECTS),
    "container": ("action", 1.0, CONTAINERS),
    "place": ("scene", 0.7, PLACES),
    "person": ("scene", 1.2, PERSONS),
    "clutter": ("scene", 1.0, ALL_OBJECTS),  # times WorldConfig.clutter
}


def _concept_vectors() -> dict[str, np.ndarray]:
    """Unit vectors of all words: token means of the sample's text encoder, centred over the vocabulary."""
    from groundnlq.data.text import TextEncoder

    words = list(dict.fromkeys(word for *_, words in SLOTS.values() for word in words))
    means = np.stack([tokens.mean(0).numpy() for tokens in TextEncoder.load("sample").encode(words)])
    means -= means.mean(0)
    return dict(zip(words, means / np.linalg.norm(means, axis=1, keepdims=True), strict=True))


class Camera:
    """Turns logs into features of the two sources ``action`` and ``scene``.

    Each slot has a fixed random map from the encoder's space to its source; it depends on the seed only.
    """

    def __init__(self, config: WorldConfig):
        self.config, concepts = config, _concept_vectors()
        self.widths = {"action": config.action_width, "scene": config.scene_width}
        self.grid = StepGrid(config.fps, config.snippet_stride_frames, "consistent")
        size = len(next(iter(concepts.values())))
        self.codes = {}
        for slot, (source, amplitude, words) in SLOTS.items():
            width = self.widths[source]
            mapping = config.stream("camera", slot).standard_normal((size, width)) * width**-0.5
            self.codes[slot] = {word: amplitude * concepts[word] @ mapping for word in words}

    def film(self, log: ClipLog) -> dict[str, np.ndarray]:
        """(T, width) float32 features of each source."""
        num_steps = round(log.duration_sec / self.grid.step_sec)
        seen = {source: np.zeros((num_steps, width)) for source, width in self.widths.items()}
        for start, end, place in log.stays:
            self._show(seen, "place", place, start, end)
            for thing in log.clutter[place]:
                self._show(seen, "clutter", thing, start, end, self.config.clutter)
        for event in log.events:
            for slot in ("verb", "object", "container", "person"):
                word = getattr(event, slot)
                if word is not None:
                    self._show(seen, slot, word, event.start_sec, event.end_sec)
        return {source: self._with_noise(log, source, x).astype(np.float32) for source, x in seen.items()}

    def _show(self, seen: dict, slot: str, word: str, start_sec: float, end_sec: float, strength: float = 1.0) -> None:
        source = SLOTS[slot][0]
        first, last = self.grid.to_grid(start_sec), self.grid.to_grid(end_sec)
        steps = np.arange(len(seen[source]))
        # a step that an event covers in part shows it in part
        cover = np.clip(np.minimum(steps + 0.5, last) - np.maximum(steps - 0.5, first), 0, 1)
        seen[source] += strength * cover[:, None] * self.codes[slot][word]

    def _with_noise(self, log: ClipLog, source: str, x: np.ndarray) -> np.ndarray:
        """White noise, slowly wandering noise (AR(1), 0.8) and an offset of the whole clip."""
        random = self.config.stream("noise", source, log.split, log.clip_uid)
        scale = self.config.feature_noise
        white = random.standard_normal(x.shape) * scale
        push = random.standard_normal(x.shape) * scale * 0.6
        wander = np.empty_like(push)
        level = np.zeros(x.shape[1])
        for step, noise in enumerate(push):
            level = 0.8 * level + noise
            wander[step] = level
        return x + white + wander + random.standard_normal(x.shape[1]) * scale
