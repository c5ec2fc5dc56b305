"""The generator draws what the paper says, and a short run has the paper's order."""

from __future__ import annotations

import numpy as np
import pytest

from aimer2.models.linear import Multinomial
from benchmarks import synthetic


def test_labels_are_those_of_the_drawn_model() -> None:
    for site in synthetic.generate((1, 1)):
        scores = site.rows.features @ site.weights + site.intercept
        assert (site.rows.targets == scores.argmax(axis=1)).all()
        assert 50 <= len(site.rows) <= synthetic.MOST


def test_iid_sites_share_model_and_centre() -> None:
    first, *others = synthetic.generate(None)
    assert all(np.array_equal(first.weights, other.weights) and not other.centre.any() for other in others)
    everything = np.concatenate([site.rows.features for site in (first, *others)])
    assert everything.mean(axis=0) == pytest.approx(np.zeros(60), abs=0.05)
    assert everything.var(axis=0) == pytest.approx(np.arange(1, 61) ** -1.2, rel=0.1)


@pytest.mark.parametrize(("alpha", "beta"), [(0, 0), (0.5, 2), (3, 1)])
def test_alpha_moves_the_models_and_beta_the_features(alpha: float, beta: float) -> None:
    """Of 600 weights a site's mean has variance α² + 1/600, of 60 centres β² + 1/60."""
    sites = synthetic.generate((alpha, beta), sites=400)
    assert np.std([site.weights.mean() for site in sites]) == pytest.approx((alpha**2 + 1 / 600) ** 0.5, rel=0.12)
    assert np.std([site.centre.mean() for site in sites]) == pytest.approx((beta**2 + 1 / 60) ** 0.5, rel=0.12)
    assert np.mean([site.weights.std() for site in sites]) == pytest.approx(1, rel=0.02)


def test_sizes_are_lognormal() -> None:
    sizes = np.array([len(site.rows) for site in synthetic.generate(None, sites=600)])
    assert np.median(sizes) == pytest.approx(50 + np.exp(4), rel=0.15)
    assert len({len(site.rows) for site in synthetic.generate((0, 0), seed=2)}) > 10
    assert (sizes == [len(site.rows) for site in synthetic.generate((1, 1), sites=600)]).all()


def test_loss_and_dissimilarity_by_hand() -> None:
    """At zero every class has chance 1/10: the loss is ln 10. A site alone does not differ from itself."""
    sites = synthetic.generate((1, 1), sites=3)
    zero = Multinomial(60, 10).initial(np.random.default_rng(0))
    loss, dissimilarity = synthetic.judged(zero, sites)
    assert loss == pytest.approx(np.log(10))
    assert dissimilarity > 1
    assert synthetic.judged(zero, sites[:1])[1] == pytest.approx(0, abs=1e-20)


def test_stragglers_do_less_and_the_others_as_much() -> None:
    assert synthetic.local_work(30, stragglers=False) == [20] * 30
    work = synthetic.local_work(30, stragglers=True)
    assert work.count(20) == 3 and all(1 <= steps <= 20 for steps in work)


def test_methods_part_where_sites_differ_and_not_where_they_are_alike() -> None:
    alike, apart = synthetic.generate(None, sites=6), synthetic.generate((1, 1), sites=6)
    last = {
        (name, kind): synthetic.trained(name, sites, 12, stragglers=False)[-1]
        for name in ("FedAvg", "SCAFFOLD")
        for kind, sites in (("alike", alike), ("apart", apart))
    }
    gap = {kind: last["FedAvg", kind][0] / last["SCAFFOLD", kind][0] for kind in ("alike", "apart")}
    assert gap["alike"] == pytest.approx(1, abs=0.05)
    assert last["FedAvg", "apart"][1] > 5 * last["FedAvg", "alike"][1]
    late = {name: synthetic.trained(name, apart, 12, stragglers=True)[-1][0] for name in ("FedAvg", "FedProx, mu 1")}
    assert late["FedProx, mu 1"] < late["FedAvg"], "leaving nine sites in ten out costs more than taking their unfinished work"
