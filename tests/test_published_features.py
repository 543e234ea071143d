"""`benchmarks/published_features.py`: own features are found in published ones that are permuted, shifted, scaled
and noisy."""

import numpy as np
import pytest
import torch

from benchmarks.published_features import compare_features, main
from groundnlq.data.features import write_features
from groundnlq.errors import FeatureError

WIDTHS = {"verb sha256:1": 24, "noun sha256:2": 24, "ego sha256:3": 8}
FIRST = {"verb sha256:1": 0, "noun sha256:2": 24, "ego sha256:3": 48}
NUM_STEPS = 80


def film(seed=0, num_steps=NUM_STEPS + 20):
    """(T, 56) features that change slowly, as those of overlapping snippets."""
    noise = np.random.default_rng(seed).standard_normal((num_steps + 4, sum(WIDTHS.values())))
    return np.stack([noise[i : i + num_steps] for i in range(5)]).sum(0).astype(np.float32)


def published(features, order, scale=1.0, noise=0.0):
    """The same features with their parts in another order."""
    parts = [features[:, FIRST[name] : FIRST[name] + WIDTHS[name]] for name in order]
    changed = np.concatenate(parts, axis=1) * scale
    return changed + noise * np.random.default_rng(1).standard_normal(changed.shape)


@pytest.fixture
def own(tmp_path):
    """A store of two clips of own features, and these."""
    clips = {name: film(seed) for seed, name in enumerate(("a", "b"))}
    settings = {name: {"width": width} for name, width in WIDTHS.items()}
    shown = ((uid, values[10 : 10 + NUM_STEPS]) for uid, values in clips.items())
    write_features(tmp_path / "own.h5", shown, attributes={"settings": settings}, dtype="float32")
    return tmp_path / "own.h5", clips


def save(folder, arrays):
    folder.mkdir()
    for uid, values in arrays.items():
        torch.save(torch.from_numpy(values).float(), folder / f"{uid}.pt")
    return folder


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize("shift", [0, 3, -4])
def test_order_shift_and_scale_are_found(tmp_path, own, order, shift):
    store, clips = own
    names = [list(WIDTHS)[i] for i in order]
    begin = 10 - shift
    arrays = {uid: published(values, names, 2.5, 0.1)[begin : begin + NUM_STEPS] for uid, values in clips.items()}
    parts = compare_features(store, save(tmp_path / "pt", arrays))
    assert [part.encoder for part in parts] == list(WIDTHS)
    assert [part.encoder for part in sorted(parts, key=lambda part: part.published)] == names
    for part in parts:
        start = sum(WIDTHS[name] for name in names[: names.index(part.encoder)])
        assert part.published == (start, start + WIDTHS[part.encoder] - 1)
        assert part.channels[0] == FIRST[part.encoder]
        assert part.shift_steps == shift
        assert part.correlation > 0.99
        assert part.scale == pytest.approx(2.5, rel=0.02)
        assert part.agrees


def test_correlation_falls_as_noise_grows(tmp_path, own):
    store, clips = own
    found = {}
    for noise in (0.1, 2.0, 20.0):
        arrays = {uid: published(v, list(WIDTHS), noise=noise)[10 : 10 + NUM_STEPS] for uid, v in clips.items()}
        found[noise] = compare_features(store, save(tmp_path / f"{noise}", arrays))
    expected = (5 / (5 + 2**2)) ** 0.5  # of signal of variance 5 with signal and noise; 160 steps tell it roughly
    assert [part.correlation for part in found[2.0]] == pytest.approx([expected] * 3, abs=0.1)
    assert [[part.agrees for part in parts] for parts in found.values()] == [[True] * 3, [False] * 3, [False] * 3]


def test_unrelated_features_do_not_agree(tmp_path, own):
    store, _ = own
    others = {uid: film(seed)[:NUM_STEPS] for seed, uid in enumerate(("a", "b"), 7)}
    assert [part.agrees for part in compare_features(store, save(tmp_path / "others", others))] == [False] * 3


def test_only_the_part_that_is_another_does_not_agree(tmp_path, own):
    store, clips = own
    arrays = {uid: values[10 : 10 + NUM_STEPS].copy() for uid, values in clips.items()}
    for values in arrays.values():
        values[:, 24:48] = film(9)[:NUM_STEPS, 24:48]
    parts = compare_features(store, save(tmp_path / "pt", arrays))
    assert [part.agrees for part in parts] == [True, False, True]


def test_channels_that_never_change_do_not_disturb(tmp_path, own):
    store, clips = own
    arrays = {uid: values[10 : 10 + NUM_STEPS].copy() for uid, values in clips.items()}
    for values in arrays.values():
        values[:, ::6] = 1
    parts = compare_features(store, save(tmp_path / "pt", arrays))
    assert all(part.agrees and part.published == part.channels for part in parts)


@pytest.mark.parametrize("num_steps", [1, 2, 5])
def test_a_clip_of_few_steps_is_compared_as_far_as_it_goes(tmp_path, num_steps):
    values = film()[:num_steps]
    write_features(tmp_path / "own.h5", [("a", values)], dtype="float32")
    (part,) = compare_features(tmp_path / "own.h5", save(tmp_path / "pt", {"a": values}))
    assert (part.encoder, part.shift_steps, part.agrees) == ("features", 0, num_steps > 1)


def test_the_file_of_one_clip_may_have_any_name_if_there_is_but_one_here(tmp_path):
    values = film()
    write_features(tmp_path / "own.h5", [("kitchen", values)], dtype="float32")
    folder = save(tmp_path / "pt", {"3f2a": values})
    assert compare_features(tmp_path / "own.h5", folder / "3f2a.pt")[0].agrees
    with pytest.raises(FeatureError, match=r"pt: none of the clips in .*own\.h5 -- extract a published clip"):
        compare_features(tmp_path / "own.h5", folder)


def test_published_features_that_are_narrower_are_refused(tmp_path, own):
    folder = save(tmp_path / "pt", {"a": film()[:, :20]})
    with pytest.raises(FeatureError, match=r"has 20 channels, here are .*'verb sha256:1': 24"):
        compare_features(own[0], folder)


def test_the_command_says_order_and_verdict(tmp_path, own, capsys):
    store, clips = own
    names = list(WIDTHS)[::-1]
    arrays = {uid: published(v, names)[9 : 9 + NUM_STEPS] for uid, v in clips.items()}
    assert main([str(store), str(save(tmp_path / "pt", arrays))]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (
        "verb sha256:1: channels 0-23 are published 32-55, shift +1 steps, correlation 1.0000, scale 1.000: agrees"
        in lines
    )
    assert lines[-1] == f"order of the published parts: {', '.join(names)}"
    others = {uid: film(5)[:NUM_STEPS] for uid in clips}
    assert main([str(store), str(save(tmp_path / "others", others))]) == 1
    assert "does not agree" in capsys.readouterr().out
    assert main([str(store), str(tmp_path / "none")]) == 2
    assert "none: does not exist" in capsys.readouterr().err
