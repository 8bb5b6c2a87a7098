"""The experiment of chapter 14: its formulas against dense ones, a tiny run and its resumption."""

import math

import pytest
import torch

import hessinit_lite as hl
from hessinit_lite.lab.corpus import Corpus
from hessinit_lite.lab.experiments import words


@pytest.fixture(scope="module")
def tiny():
    text = words.toy_text()
    batches = (words.pairs(text, 200, seed) for seed in (0, 1))
    return words.Task(text, text, *batches, dim=4, steps=60, seeds=[0, 1], device="cpu")


def test_the_blocks_are_those_of_the_dense_hessian():
    text = words.toy_text()
    batch = text.batch(50, 1, 3, hl.seeded(0), torch.float64)
    model = hl.SkipGram(20, 3).double()
    for name, blocks in zip(("center", "context"), words.word_blocks(model, batch)):
        operator = hl.hessian(model, words.loss_fn, batch, layer=name)
        torch.testing.assert_close(torch.block_diag(*blocks), operator.matmat(torch.eye(60, dtype=torch.float64)))
    assert words.norms(model, batch) == pytest.approx(words.largest(model, batch).tolist(), rel=0.03)


def test_the_hessian_at_the_origin_is_that_of_the_meetings():
    batch = words.toy_text().batch(50, 1, 3, hl.seeded(0), torch.float64)
    model = words.scale_(hl.SkipGram(20, 2).double(), 0, 0)
    whole = hl.hessian(model, words.loss_fn, batch).matmat(torch.eye(80, dtype=torch.float64))
    expected = torch.linalg.svdvals(words.meetings(batch, 20)).repeat_interleave(2)
    torch.testing.assert_close(torch.linalg.eigvalsh(whole)[-40:].flip(0), expected, atol=1e-12, rtol=0)


def test_training_is_sgd_and_models_do_not_mix(tiny):
    models = [words.make(tiny, 0.1, seed) for seed in (0, 1)]
    alone = [words.make(tiny, 0.1, seed) for seed in (0, 1)]
    losses = words.train(models, tiny.text, 0.05, 20, [3, 4])
    assert losses.shape == (20, 2)
    for model, other, seed in zip(models, alone, (3, 4)):
        words.train_by_autograd(other, tiny.text, 0.05, 20, seed)
        for p, q in zip(model.parameters(), other.parameters()):
            torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-5)


def test_the_named_starts_keep_what_they_promise(tiny):
    assert words.largest(words.make(tiny, "norm 1", 0), tiny.look).tolist() == pytest.approx([1, 1], rel=0.01)
    assert float(words.pair_norms(words.make(tiny, "norm 1 a pair", 0), tiny.look).prod()) == pytest.approx(1, rel=0.01)
    center, context = words.make(tiny, "word2vec", 0).parameters()
    assert center.abs().max() <= 0.5 / 4 and not context.any()


def test_steps_to_a_level():
    losses = torch.tensor([[2.0, 2.0], [1.0, 2.0], [0.0, 2.0]])
    assert words.steps_to(losses, 1.6, average=2).tolist() == [2, math.inf]


def test_mean_slope():
    assert words.mean_slope(1e-3) == pytest.approx(0.25, rel=1e-3)
    assert words.mean_slope(1e3) == pytest.approx(1 / (1e3 * math.sqrt(2 * math.pi)), rel=1e-2)


def test_a_tiny_run_and_its_resumption(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(words, "RATES", (0.1,))
    monkeypatch.setattr(words, "plurals", lambda model, vocabulary: 0.0)
    first = words.run("full", folder=tmp_path, made=tiny)
    settings = words.settings(tiny)
    assert len(first.answers(settings)) == len(words.STARTS) + 1
    monkeypatch.setattr(words, "answer", lambda *_, **__: 1 / 0)  # nothing is left to compute
    again = words.run("full", folder=tmp_path, made=tiny)
    assert again.answers(settings) == first.answers(settings)
    by = words.by_start_and_rate(again)
    assert {(setting["start"], setting["rate"]) for setting in settings} <= set(by)
    assert words.mean_loss({"loss": [1.0, 2.0]}) == 1.5 and words.mean_loss({"loss": math.inf}) == math.inf


class Unthinned(Corpus):
    """A text of which no word is left out."""

    def subsample(self, *_):
        return self


def test_what_judges_has_chosen_no_rate(monkeypatch):
    """Text of 20 words, each in a piece of its own: the word of the piece shows where a pair is from."""
    tokens = torch.arange(20).repeat_interleave(500).repeat(3)
    text = Unthinned("pieces", tokens, [f"w{i}" for i in range(20)], tokens.bincount())
    monkeypatch.setattr(words, "docstrings", lambda *_, **__: text)
    tuned, judged = words.task(), words.task(judges=True)
    assert set(tuned.text.tokens.tolist()) == set(range(19)) and set(tuned.held[0][:, 0].tolist()) == {19}
    assert set(judged.text.tokens.tolist()) == set(range(20)) - {9, 19} and set(judged.held[0][:, 0].tolist()) == {9}
    assert not set(words.JUDGES) & {0, 1}  # the two seeds of the full size's grid


def test_each_compared_start_keeps_its_best_rate(tmp_path):
    stored = hl.Results("14-word2vec", "full", tmp_path, fresh=True)
    losses = {0.025: 0.5, 0.05: 0.4, 0.1: 0.45}
    settings = [{"start": start, "rate": rate} for start in words.STARTS for rate in losses]
    stored.run(lambda start, rate: {"loss": [losses[rate] - (start == 0.1 and rate == 0.1)]}, settings, progress=False)
    found = [tuple(each.values()) for each in words.compared(stored)]
    assert found == [("word2vec", 0.025), ("word2vec", 0.05), (0.1, 0.025), (0.1, 0.1),
                     ("norm 1 a pair", 0.025), ("norm 1 a pair", 0.05)]
    nothing = hl.Results("14-word2vec", "full", tmp_path / "empty", fresh=True)
    assert [each["rate"] for each in words.compared(nothing)] == [0.025] * 3


def test_stored_settings_are_those_that_the_results_page_reads():
    keys = {"start", "rate", "dim", "steps", "seeds", "text"}
    for name in ("14-word2vec", "14-word2vec-epoch", "14-word2vec-judged"):
        assert all(keys <= set(setting) for setting, _ in hl.Results(name, "full", fresh=False).items())
