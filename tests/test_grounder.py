"""Properties of the network that no golden file shows."""

import pytest
import torch

from groundnlq.config import ModelConfig
from groundnlq.data.dataset import Batch
from groundnlq.model.attention import _attend, attend_window
from groundnlq.model.grounder import Grounder
from tests.golden_inputs import features, golden_batch, golden_config, golden_model


def valid_outputs(predictions, row):
    mask = predictions.mask[row]
    return torch.cat([predictions.logits[row, mask][:, None], predictions.offsets[row, mask]], dim=1)


def batch_of(video_lengths, text_lengths, clip_index, row_multiple=8):
    queries = range(len(text_lengths))
    return Batch.collate(
        clips=[features(100 + i, n, 24) for i, n in enumerate(video_lengths)],
        texts=[features(200 + i, n, 12) for i, n in enumerate(text_lengths)],
        clip_index=clip_index,
        moments_grid=[torch.zeros(0, 2) for _ in queries],
        query_ids=[str(i) for i in queries],
        clip_uids=[str(i) for i in range(len(video_lengths))],
        durations_sec=[1.0 for _ in queries],
        row_multiple=row_multiple,
    )


@pytest.mark.parametrize("name", ["tiny", "tiny_star"])
@torch.no_grad()
def test_no_result_depends_on_the_other_members_of_a_batch(name):
    model = golden_model(name).eval()
    together = model(golden_batch(name))
    for i in range(3):
        alone = model(golden_batch(name, [i]))
        torch.testing.assert_close(valid_outputs(together, i), valid_outputs(alone, 0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["tiny", "tiny_star"])
@pytest.mark.parametrize("num_steps", range(89, 98))
@torch.no_grad()
def test_the_number_of_padded_rows_does_not_change_valid_scores(name, num_steps):
    """Also not where levels have odd numbers of rows, or no row to spare."""
    model = golden_model(name).eval()
    expected = valid_outputs(model(batch_of([num_steps], [4], [0], row_multiple=256)), 0)
    for row_multiple in (1, 2, 6, 8):
        found = model(batch_of([num_steps], [4], [0], row_multiple=row_multiple))
        torch.testing.assert_close(valid_outputs(found, 0), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_queries_that_share_a_clip_get_what_they_get_alone():
    model = golden_model("tiny").eval()
    shared = model(batch_of([97, 60], [4, 7, 2], [0, 1, 0]))
    for query, text in enumerate([4, 7, 2]):
        one = batch_of([97, 60], [4, 7, 2], [0, 1, 0])
        clip = one.clip_index[query : query + 1]
        alone = model(
            Batch.collate(
                [one.video[clip][0][one.video_mask[clip][0]]],
                [one.text[query, :text]],
                [0],
                [torch.zeros(0, 2)],
                ["q"],
                ["c"],
                [1.0],
                8,
            )
        )
        torch.testing.assert_close(valid_outputs(shared, query), valid_outputs(alone, 0), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_clip_beyond_max_seq_len_is_answered_and_not_changed_by_its_neighbour():
    model = golden_model("tiny").eval()
    mixed = model(batch_of([97, 300], [4, 4], [0, 1]))
    assert mixed.mask[1].sum() == 300 + 150 + 75 + 38
    assert mixed.logits.isfinite().all()
    normal = model(batch_of([97], [4], [0]))
    torch.testing.assert_close(valid_outputs(mixed, 0), valid_outputs(normal, 0), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_results_do_not_depend_on_what_lies_in_padded_rows_of_the_mask():
    model, batch = golden_model("tiny").eval(), batch_of([97, 60], [4, 7], [0, 1])
    assert batch.video[~batch.video_mask].abs().sum() == 0
    assert (~batch.video_mask).any(dim=1).all()
    assert (~batch.text_mask).any(dim=1).all()
    assert model(batch).logits.shape == model(batch).mask.shape


@torch.no_grad()
def test_a_window_of_zero_is_the_whole_clip_at_every_level():
    """As one that is wider than the clip; the number of padded rows plays no part."""
    models = {}
    for window in (0, 2 * 97 + 1, 9):
        models[window] = Grounder(golden_config("tiny").model_copy(update={"window": window})).eval()
        models[window].load_state_dict(golden_model("tiny").state_dict())
    found = {window: valid_outputs(model(batch_of([97], [4], [0])), 0) for window, model in models.items()}
    torch.testing.assert_close(found[0], found[195], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found[0], found[9], atol=1e-2)
    padded = valid_outputs(models[0](batch_of([97], [4], [0], row_multiple=256)), 0)
    torch.testing.assert_close(padded, found[0], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_without_the_position_table_a_clip_gets_what_it_gets_with_a_table_of_zeros():
    without, table = (
        Grounder(golden_config("tiny").model_copy(update={"position_table": on})).eval() for on in (False, True)
    )
    for model in (without, table):
        model.load_state_dict(golden_model("tiny").state_dict())
    batch = batch_of([97], [4], [0])
    assert not torch.equal(without(batch).logits, table(batch).logits)
    table.video_encoder.embedding.position_table.zero_()
    assert torch.equal(without(batch).logits, table(batch).logits)


@pytest.mark.parametrize(("num_steps", "window"), [(1, 9), (7, 9), (16, 5), (33, 9), (70, 3)])
def test_window_attention_equals_dense_attention_under_a_band_mask(num_steps, window):
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, num_steps, 8, dtype=torch.float64)
    mask = torch.arange(num_steps) < torch.tensor([[num_steps], [max(1, num_steps - 3)]])
    fast = attend_window(q, k, v, mask, num_heads=2, window=window)
    step = torch.arange(num_steps)
    band = (step[:, None] - step).abs() <= window // 2
    scores = torch.einsum("bthd,bshd->bhts", q.unflatten(-1, (2, 4)), k.unflatten(-1, (2, 4))) / 2
    scores = scores.masked_fill(~(band & mask[:, None, None, :]), -1e4)
    slow = torch.einsum("bhts,bshd->bthd", scores.softmax(-1), v.unflatten(-1, (2, 4))).flatten(2)
    torch.testing.assert_close(fast[mask], slow[mask])


def test_full_attention_ignores_padded_tokens():
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 6, 8)
    mask = torch.tensor([[True, True, True, True, False, False]])
    out = _attend(q, k, v, mask, num_heads=2)
    torch.testing.assert_close(out, _attend(q, k[:, :4], v[:, :4], mask[:, :4], num_heads=2))


@torch.no_grad()
def test_cross_attention_weights_rebuild_its_output():
    attention = golden_model("tiny").video_encoder.stem[0].cross_attention
    x, text = torch.randn(1, 5, 32), torch.randn(1, 4, 32)
    text_mask = torch.tensor([[True, True, True, False]])
    weights = attention.weights(x, text, text_mask)  # (B, H, T, L)
    values = attention.value(text).unflatten(-1, (4, -1))
    rebuilt = attention.out(torch.einsum("bhtl,blhd->bthd", weights, values).flatten(2))
    torch.testing.assert_close(rebuilt, attention(x, text, text_mask), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_cross_attention_carried_to_the_tokens_equals_plain_attention():
    attention = golden_model("tiny").video_encoder.stem[0].cross_attention
    x, text = torch.randn(2, 7, 32), torch.randn(2, 4, 32)
    text_mask = torch.tensor([[True, True, True, False], [True, True, True, True]])
    mixed = _attend(attention.query(x), attention.key(text), attention.value(text), text_mask, num_heads=4)
    torch.testing.assert_close(attention.out(mixed), attention(x, text, text_mask), rtol=1e-4, atol=1e-5)


def test_every_parameter_receives_a_gradient():
    config = ModelConfig(
        video_dim=6,
        text_dim=5,
        width=8,
        num_heads=2,
        num_cross_levels=1,
        num_self_levels=1,
        max_seq_len=64,
        regression_ranges_grid=((0, 4), (2, 8), (4, 10000)),
        scale_init=0.5,
    )
    model = Grounder(config)
    batch = Batch.collate(
        [torch.randn(30, 6)], [torch.randn(4, 5)], [0], [torch.tensor([[2.0, 9.0]])], ["q"], ["c"], [1.0], 4
    )
    predictions = model.eval()(batch)
    (predictions.logits.sum() + predictions.offsets.sum()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_stochastic_depth_drops_whole_samples_and_keeps_the_mean():
    from groundnlq.model.blocks import _ScaledPath

    torch.manual_seed(0)
    path = _ScaledPath(4, drop_rate=0.25, scale_init=1.0).train()
    out = path(torch.zeros(4000, 3, 4), torch.ones(4000, 3, 4))
    per_sample = out[:, 0, 0]
    assert torch.equal(out, per_sample[:, None, None].expand_as(out))
    assert sorted(per_sample.unique().tolist()) == pytest.approx([0, 1 / 0.75])
    assert per_sample.mean().item() == pytest.approx(1.0, abs=0.05)
    assert torch.equal(path.eval()(torch.zeros(2, 3, 4), torch.ones(2, 3, 4)), torch.ones(2, 3, 4))


def test_the_fused_linear_equals_the_plain_one():
    from groundnlq.model.layers import FUSED_DTYPES, MLP

    torch.manual_seed(0)
    mlp, x = MLP(16), torch.randn(2, 5, 16)
    plain = mlp(x)
    with torch.inference_mode():
        assert not FUSED_DTYPES or mlp[0]._is_fused(x)
        torch.testing.assert_close(mlp(x), plain.detach(), rtol=1e-5, atol=1e-6)
        assert not mlp[0]._is_fused(x.double())
        with torch.autocast("cpu", torch.bfloat16):
            assert not mlp[0]._is_fused(x)
