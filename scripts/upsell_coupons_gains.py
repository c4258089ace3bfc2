"""Who would redeem: models that learn from earlier campaigns, simple rules, and how many redeemers each finds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from upsell_coupons_rows import FEATURES

Floats = NDArray[np.float64]
GRID = np.linspace(0.0, 1.0, 101)
"""Shares of the households that are contacted."""
TOP = (0.1, 0.2)
"""Shares at which lift is shown."""
MIN_REDEEMERS = 50
"""Redeemers in earlier campaigns that a model needs; campaigns before are passed over."""
MODELS = ("logistic", "boosted")
RULES: dict[str, Callable[[pl.DataFrame], Floats]] = {
    "past_redeemers": lambda rows: _ranked(rows, "redeemed_campaigns", "redeemed_lines", "frequency"),
    "coupon_buyers": lambda rows: _ranked(rows, "coupon_lines", "frequency"),
    "frequent_buyers": lambda rows: _ranked(rows, "frequency", "monetary"),
}
"""Name to what a rule orders households by; households that it does not tell apart come in a drawn order."""
RANDOM = "random"
"""What chance finds: its share of the redeemers."""
NAMES = (*MODELS, *RULES, RANDOM)
RATIOS = ("monetary", "spend", "frequency", "gap", "recency", "tenure", "coupon_lines", "coupon_baskets",
          "coupon_products", "coupon_recency", "redeemed_lines", "redeemed_recency", "products", "coupons")  # fmt: skip
"""Features whose logarithm the linear model reads."""


@dataclass(frozen=True)
class Gains:
    """What was found in C campaigns.

    Attributes:
        campaigns: ``campaign_id, campaign_type, start, households, redeemers, learned_from`` (campaigns), C rows.
        found: Model to the redeemers found at each share of :data:`GRID`, ``[C, 101]``.
        auc: Model to the area under its ROC curve, ``[C]``, NaN in a campaign without redeemers.
        ranked: Model to the households of each campaign in its order, and whether they redeemed; none of chance.
        weights: Feature to its weight in the last linear model, per standard deviation.
    """

    campaigns: pl.DataFrame
    found: dict[str, Floats]
    auc: dict[str, Floats]
    ranked: dict[str, list[tuple[NDArray[np.int64], NDArray[np.bool_]]]]
    weights: dict[str, float]

    def lift(self, name: str, share: float, rows: NDArray[np.int64] | None = None) -> float:
        """Return redeemers found among a share of the households over what chance finds, pooled over campaigns."""
        rows = np.arange(len(self.campaigns)) if rows is None else rows
        redeemers = self.campaigns["redeemers"].to_numpy()[rows].sum()
        place = int(np.argmin(np.abs(GRID - share)))
        return float(self.found[name][rows, place].sum() / max(redeemers, 1) / share)

    def curve(self, name: str, rows: NDArray[np.int64]) -> Floats:
        """Return the share of the redeemers that is found, pooled over campaigns, ``[101]``."""
        found: Floats = self.found[name][rows].sum(0) / max(self.campaigns["redeemers"].to_numpy()[rows].sum(), 1)
        return found


def rank_campaigns(rows: pl.DataFrame, seed: int = 0) -> Gains:
    """Rank the households of every campaign by models of the campaigns that were over when it began.

    Args:
        rows: Of :func:`~upsell_coupons_rows.campaign_rows`.
        seed: Of the drawn orders and the boosted trees.

    Raises:
        ValueError: No campaign has enough before it.
    """
    facts: list[pl.DataFrame] = []
    found, auc = {name: list[Floats]() for name in NAMES}, {name: list[float]() for name in NAMES}
    ranked: dict[str, list[tuple[NDArray[np.int64], NDArray[np.bool_]]]] = {name: [] for name in NAMES[:-1]}
    weights: dict[str, float] = {}
    for (_, start), here in rows.group_by("campaign_id", "start", maintain_order=True):
        earlier = rows.filter(pl.col("end") < start)
        if earlier["redeemed"].sum() < MIN_REDEEMERS:
            continue
        scores, weights = fitted_scores(earlier, here, seed)
        labels = here["redeemed"].to_numpy()
        chance = np.random.default_rng([seed, len(facts)]).permutation(len(here))
        scores |= {name: rule(here) for name, rule in RULES.items()}
        for name, values in scores.items():
            order = np.lexsort((chance, -values))  # equal ones come in a drawn order
            ranked[name].append((here["household_id"].to_numpy()[order], labels[order]))
            found[name].append(found_by(labels[order]))
            auc[name].append(area(values, labels))
        found[RANDOM].append(GRID * labels.sum())
        auc[RANDOM].append(0.5)
        one = here.select("campaign_id", "campaign_type", "start").head(1)
        counts = {"households": len(here), "redeemers": int(labels.sum())}
        facts.append(one.with_columns(**{name: pl.lit(n) for name, n in counts.items()},
                                      learned_from=pl.lit(earlier["campaign_id"].n_unique())))  # fmt: skip
    if not facts:
        raise ValueError(f"no campaign has {MIN_REDEEMERS} redeemers in campaigns that were over when it began.")
    return Gains(
        pl.concat(facts),
        {name: np.stack(parts) for name, parts in found.items()},
        {name: np.array(parts) for name, parts in auc.items()},
        ranked,
        weights,
    )


def fitted_scores(earlier: pl.DataFrame, here: pl.DataFrame, seed: int) -> tuple[dict[str, Floats], dict[str, float]]:
    """Fit both models on earlier campaigns; return their scores of one campaign, and the weights of the linear one."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    labels = earlier["redeemed"].to_numpy()
    impute = SimpleImputer(strategy="median", add_indicator=False, keep_empty_features=True)
    linear: Any = make_pipeline(impute, StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    linear.fit(_matrix(earlier, logs=True), labels)
    boosted: Any = HistGradientBoostingClassifier(
        learning_rate=0.05, max_iter=120, max_depth=3, min_samples_leaf=40, l2_regularization=1.0, random_state=seed
    )
    boosted.fit(_matrix(earlier, logs=False), labels)
    scores = {
        "logistic": linear.decision_function(_matrix(here, logs=True)),
        "boosted": boosted.decision_function(_matrix(here, logs=False)),
    }
    return scores, dict(zip(FEATURES, linear[-1].coef_[0].tolist(), strict=True))


def found_by(labels: NDArray[np.bool_]) -> Floats:
    """Return the redeemers among the first shares of :data:`GRID` of households in order, ``[101]``."""
    reached = np.concatenate([[0.0], np.cumsum(labels)])
    return np.interp(GRID * len(labels), np.arange(len(labels) + 1), reached)


def area(values: Floats, labels: NDArray[np.bool_]) -> float:
    """Return the share of pairs of a redeemer and another that are in the right order; equal ones count a half."""
    from scipy.stats import rankdata

    n, positive = len(labels), int(labels.sum())
    if positive in (0, n):
        return float("nan")
    return float((rankdata(values)[labels].sum() - positive * (positive + 1) / 2) / (positive * (n - positive)))


def over_campaigns(
    statistic: Callable[[NDArray[np.int64]], float], rows: NDArray[np.int64], resamples: int, seed: int
) -> tuple[float, float, float]:
    """Return a statistic of campaigns with its 95 % bootstrap interval over campaigns (Efron 1979).

    Args:
        statistic: Of the numbers of campaigns, which may repeat.
        rows: The campaigns that there are.
        resamples: Draws with replacement.
        seed: Of the draws: the same campaigns are drawn for every statistic.
    """
    draws = np.random.default_rng(seed).choice(rows, (resamples, len(rows)))
    low, high = np.nanquantile([statistic(draw) for draw in draws], [0.025, 0.975])
    return statistic(rows), float(low), float(high)


def lifts_over_households(
    gains: Gains, share: float, rows: NDArray[np.int64], resamples: int, seed: int
) -> dict[str, Floats]:
    """Return the lift of every model in bootstrap samples of the households, ``[resamples]``.

    A household counts as often as it is drawn, in every campaign that it received (Poisson weights), so that the
    campaigns stay what they are; the same households are drawn for every model.
    """
    known = np.unique(np.concatenate([gains.ranked[MODELS[0]][row][0] for row in rows]))
    weights = np.random.default_rng(seed).poisson(1.0, (resamples, len(known))).astype(np.float64)
    out = {RANDOM: np.ones(resamples)}
    for name, campaigns in gains.ranked.items():
        found, redeemers = np.zeros(resamples), np.zeros(resamples)
        for households, labels in (campaigns[row] for row in rows):
            own = weights[:, np.searchsorted(known, households)]
            place, hits = own.cumsum(1), (own * labels).cumsum(1)
            limit = share * place[:, -1:]
            inside = np.diff(np.minimum(place, limit), axis=1, prepend=0.0)  # the part of each weight that is reached
            found += (inside * labels).sum(1)
            redeemers += hits[:, -1]
        out[name] = found / np.maximum(redeemers, 1.0) / share
    return out


def _ranked(rows: pl.DataFrame, *columns: str) -> Floats:
    """Return how high households stand by the first column, among equal ones by the next, and so on."""
    keys: Sequence[Floats] = [rows[name].fill_null(0.0).to_numpy() for name in columns]
    place = np.unique(np.stack(keys, 1), axis=0, return_inverse=True)[1]
    return place.reshape(-1).astype(np.float64)


def _matrix(rows: pl.DataFrame, *, logs: bool) -> Floats:
    columns = [pl.col(name).log1p() if logs and name in RATIOS else pl.col(name) for name in FEATURES]
    return rows.select(pl.coalesce(column, pl.lit(float("nan"))) for column in columns).to_numpy()
