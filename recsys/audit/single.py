"""Single features that alone tell what comes after a cut: too good to be known before it."""

from collections.abc import Mapping

import polars as pl

from recsys.audit.findings import Finding

MAX_VALUES = 1000
"""Whole numbers with at most so many values are tried as categories, too."""
FEWEST = 30
"""Rows of each label that are needed for a verdict."""
OWN = "pairs"
"""Rows whose features are computed as of the cut, not given."""


def audit_single(
    features: pl.DataFrame, label: pl.Series, place: str, told: str, max_auc: float = 0.99
) -> list[Finding]:
    """Name every column that alone tells the label with an AUC above ``max_auc``.

    Of :data:`OWN` features it is a warning: these know nothing after the cut, and tell everything where people take
    the same things again and again.

    0.99 is far above what a single honest feature reaches: on Complete Journey, a jewellery shop and the synthetic
    shops the best attribute and the best feature of a pair stay below 0.75.

    Args:
        features: One row a pair, item, user or event; nulls are a value of their own.
        label: Bool, of as many rows.
        place: What the rows are, for the finding.
        told: What the label says, for the finding.
        max_auc: In (0.5, 1].
    """
    positives = int(label.sum())
    if min(positives, len(label) - positives) < FEWEST:
        return []
    findings = []
    for name in features.columns:
        auc = single_auc(features[name], label)
        if auc > max_auc:
            findings.append(
                Finding(
                    "near-perfect single feature",
                    "warning" if place == OWN else "error",
                    f"{place}, column '{name}'",
                    len(label),
                    f"alone it tells {told} with an AUC of {auc:.4f} (limit {max_auc}), over {positives:,} of "
                    f"{len(label):,} rows",
                    "nothing where habits are that strong; else look for a copy of the label among the events"
                    if place == OWN
                    else "find out when its value is known; if only after the cut, leave it out",
                )
            )
    return findings


def single_auc(values: pl.Series, label: pl.Series) -> float:
    """Return the area under the ROC curve of one column, in whichever direction is better, 0.5 to 1.

    Numbers are ranked with nulls below or above all others. Texts, and whole numbers with few values, are ranked by
    the rate of the label that their value has in the other half of the rows, so that rare values tell nothing.
    """
    from sklearn.metrics import roc_auc_score

    scores = []
    if values.dtype.is_numeric() or values.dtype.is_temporal():
        numbers = values.cast(pl.Float64) if values.dtype.is_numeric() else values.to_physical().cast(pl.Float64)
        ranks = numbers.fill_nan(None).rank("dense").cast(pl.Int64)
        scores += [ranks.fill_null(0), ranks.fill_null(len(ranks) + 1)]
    if not values.dtype.is_float() and (not values.dtype.is_numeric() or values.n_unique() <= MAX_VALUES):
        scores.append(_rates(values, label))
    truth = label.to_numpy()
    aucs = [float(roc_auc_score(truth, score.to_numpy())) for score in scores]
    return max((max(auc, 1 - auc) for auc in aucs), default=0.5)


def _rates(values: pl.Series, label: pl.Series) -> pl.Series:
    """Return the rate of the label among the rows of the same value in the other half, drawn to the mean of all."""
    mean = float(label.mean())  # type: ignore[arg-type]
    frame = pl.DataFrame({"value": values.cast(pl.String), "label": label.cast(pl.Float64)})
    frame = frame.with_columns(half=pl.int_range(pl.len()).shuffle(seed=0) % 2)
    sums = frame.group_by("value", "half").agg(hits=pl.col("label").sum(), rows=pl.len())
    found = frame.with_columns(other=1 - pl.col("half")).join(
        sums,
        left_on=["value", "other"],
        right_on=["value", "half"],
        how="left",
        nulls_equal=True,
        maintain_order="left",
    )
    rate = (pl.col("hits").fill_null(0.0) + mean) / (pl.col("rows").fill_null(0) + 1)
    return found.select(rate.alias("rate")).to_series()


def audit_snapshots(
    snapshots: Mapping[str, tuple[pl.DataFrame, pl.Series, str]], max_auc: float = 0.99
) -> list[Finding]:
    """Audit several tables; name of the rows -> features, label, what the label says."""
    return [
        finding
        for place, (features, label, told) in snapshots.items()
        for finding in audit_single(features, label, place, told, max_auc)
    ]
