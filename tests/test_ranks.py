"""Chapter 18's programs and the model of their cost."""

import pytest
import torch

from hessinit_lite.lab.ranks import cost


def rows(product, all_reduce, **more):
    """What the program "times" leaves, of known seconds."""
    return [{"samples": n, "parameters": p, "product": [product(n, p)] * 3, "own part": [product(n / 2, p)] * 3,
             "all_reduce": [all_reduce(p)] * 3, **more} for n in (256, 1024) for p in (10_000, 90_000, 700_000)]


def test_the_fit_finds_the_cost_that_made_the_times():
    true = cost.Cost(fixed=0.5, compute=2e-7, latency=0.1, per_byte=1e-6)
    one = rows(lambda n, p: true.time(1, n, p) / 1000, lambda p: 0.0)
    two = rows(lambda n, p: true.time(2, n, p) / 1000, lambda p: sum(true.terms(2, 1, p)[1:]) / 1000)
    found = cost.fit(cost.times(one, two))
    assert found == pytest.approx(true, rel=1e-9)
    assert found.time(2, 256, 10_000) == pytest.approx(1000 * two[0]["product"][0])


def test_there_is_no_negative_constant():
    one = rows(lambda n, p: (2e-7 * n * p - 0.1) / 1000, lambda p: 1e-6 * p)
    found = cost.fit(cost.times(one, one))
    assert found.fixed == 0 and found.compute > 0


def test_quartiles_are_milliseconds():
    assert torch.allclose(cost.quartiles([0.001, 0.002, 0.003]), torch.tensor([1.5, 2.0, 2.5]).double())


def test_a_program_that_leaves_nothing_is_an_error():
    with pytest.raises(RuntimeError, match="no_such_program"):
        cost.torchrun(1, "no_such_program")
