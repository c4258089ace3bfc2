from dataclasses import replace

import pytest
import torch

from recsys.data.log import DAY, InteractionLog
from recsys.models.fold_in import FoldIn
from recsys.training import factors as factors_module
from recsys.training.factors import ItemFactors, fit_item_factors, spread_of_products
from tests.training.conftest import BRANDS, PER_BRAND, USERS

SETTINGS = {"confidence": 2.0, "decay": 0.5, "regularization": 1.0, "seed": 0}


def found_by_towers(log: InteractionLog, fitted: ItemFactors) -> torch.Tensor:
    """What the towers answer each user for each item, from a history alone."""
    width = fitted.factors.shape[1]
    model = FoldIn(log.n_items + 2, width, SETTINGS["confidence"], SETTINGS["decay"], steps=width + 1)
    model.start_from(torch.arange(log.n_items) + 2, fitted.factors, SETTINGS["regularization"], 1 / fitted.spread)
    scores = []
    for user in range(USERS):
        events = slice(int(log.offsets[user]), int(log.offsets[user + 1]))
        age = (log.time.max() - log.time[events]).float() / DAY
        scores.append(model(log.item[events][None] + 2, age[None])[0] @ fitted.factors.T)
    return torch.stack(scores)


def test_items_bought_by_the_same_users_get_like_factors(little):
    factors = fit_item_factors(little.log, BRANDS, **SETTINGS).factors
    alike = torch.nn.functional.normalize(factors, dim=1) @ torch.nn.functional.normalize(factors, dim=1).T
    brand = torch.arange(BRANDS * PER_BRAND) // PER_BRAND
    same = brand[:, None] == brand
    assert alike[same].mean() > 0.5 + alike[~same].mean()


def test_folding_in_finds_the_factors_that_the_library_fitted(little):
    """The towers answer, from a history alone, as the factorisation does for its own users."""
    log, width = little.log, 4
    fitted = fit_item_factors(log, width, **SETTINGS, iterations=30)
    scores = found_by_towers(log, fitted)
    # Spread 1 by definition: the scale makes weights comparable between data sets.
    assert scores.std().item() == pytest.approx(1.0, abs=0.02)
    bought = torch.zeros(USERS, log.n_items, dtype=torch.bool)
    bought[log.user, log.item] = True
    assert scores[bought].mean() > 1 + scores[~bought].mean()


def test_time_counts(little):
    """With a steep decay the last day decides: what came before it hardly moves the factors."""
    log = little.log
    steep = SETTINGS | {"decay": 30.0}
    recent = log.between(int(log.time.max()) - 20 * DAY, None)
    one, other = (fit_item_factors(part, 4, **steep).factors for part in (log, recent))
    flat, flat_recent = (fit_item_factors(part, 4, **(SETTINGS | {"decay": 0.0})).factors for part in (log, recent))
    assert (one - other).norm() < 0.2 * (flat - flat_recent).norm()


def test_same_seed_same_factors(little):
    one, other = (fit_item_factors(little.log, 4, **SETTINGS) for _ in range(2))
    assert torch.equal(one.factors, other.factors)
    assert one.spread == other.spread
    assert not torch.equal(one.factors, fit_item_factors(little.log, 4, **(SETTINGS | {"seed": 1})).factors)


def test_weights_count(little):
    """An event of weight 3 is as good as three events of weight 1."""
    log = little.log
    times = torch.where(torch.arange(len(log)) % 2 == 0, 3, 1)
    row = torch.arange(len(log)).repeat_interleave(times)
    names = ("user", "item", "time", "basket", "relevant")
    thrice = replace(log, **{name: getattr(log, name)[row] for name in names})
    weighted, written = (fit_item_factors(one, 4, **SETTINGS) for one in (replace(log, weight=times.float()), thrice))
    torch.testing.assert_close(weighted.factors, written.factors, atol=1e-4, rtol=1e-3)
    plain = fit_item_factors(log, 4, **SETTINGS)
    assert (weighted.factors - plain.factors).norm() > 0.1 * plain.factors.norm()


def test_the_spread_is_of_what_the_towers_find_whatever_events_weigh(little):
    """The towers' histories have no weights: heavy events in the fit make their scores no louder."""
    log, width = little.log, 4
    weight = torch.where(torch.arange(len(log)) % 3 == 0, 10.0, 1.0)
    fitted = fit_item_factors(replace(log, weight=weight), width, **SETTINGS)
    assert found_by_towers(log, fitted).std().item() == pytest.approx(1.0, abs=0.02)


def test_the_spread_of_products_is_that_of_the_products(monkeypatch):
    monkeypatch.setattr(factors_module, "CHUNK", 7)
    left, right = torch.randn(50, 5) + 1, 3 * torch.randn(20, 5)
    assert spread_of_products(left, right) == pytest.approx(float((left @ right.T).std(correction=0)), rel=1e-5)


def test_an_item_without_events_has_no_factor(little):
    known = torch.zeros(little.log.n_items, dtype=torch.bool)
    cut = little.log.between(None, int(little.log.time[len(little.log) // 2]))
    known[cut.item] = True
    factors = fit_item_factors(cut, 4, **SETTINGS).factors
    assert (factors[~known] == 0).all()
    assert (factors[known] != 0).any(1).all()
