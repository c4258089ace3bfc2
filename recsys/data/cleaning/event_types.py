"""What each type of event is to the models: relevant, history, an impression, a return, or nothing."""

import polars as pl

from recsys.columns import EVENT_TYPE
from recsys.config.schema import DataConfig
from recsys.data.cleaning.finding import Finding
from recsys.errors import DataError, did_you_mean

WEIGHT = "weight"
"""Column of the prepared events with the weight of their type; only where ``data.weights`` gives any."""


def named_types(cfg: DataConfig) -> dict[str, list[str]]:
    """Return key of the configuration -> the event types that it names."""
    return {
        "data.relevant": list(cfg.relevant),
        "data.left_out": list(cfg.left_out),
        "data.impressions": list(cfg.impressions),
        "data.weights": list(cfg.weights),
        "data.cleaning.returns.event_types": list(cfg.cleaning.returns.event_types),
    }


def check_types(kinds: pl.Series, cfg: DataConfig, place: str) -> None:
    """Check that every event type that the configuration names occurs.

    Raises:
        DataError: One does not, with those that do.
    """
    present = kinds.drop_nulls().unique().sort().to_list()
    for key, names in named_types(cfg).items():
        for kind in names:
            if kind not in present:
                raise DataError(
                    f"{place}, column '{EVENT_TYPE}': {key} names '{kind}', which never occurs; found:"
                    f" {', '.join(present[:20])}.{did_you_mean(kind, present)}"
                )


def is_type(events: pl.DataFrame, names: list[str]) -> pl.Series:
    """Mark the events of the named types, bool ``[E]``."""
    if not names or EVENT_TYPE not in events.columns:
        return pl.Series([False]).new_from_index(0, len(events))
    return events[EVENT_TYPE].is_in(names).fill_null(False)


def role(cfg: DataConfig, kind: str | None) -> str:
    """Return what events of a type are."""
    if kind in cfg.left_out:
        return "left out"
    if kind in cfg.impressions:
        return "impressions"
    if kind in cfg.cleaning.returns.event_types:
        return "returns"
    return "relevant" if not cfg.relevant or kind in cfg.relevant else "history only"


def weighted(events: pl.DataFrame, cfg: DataConfig) -> pl.DataFrame:
    """Add the weight of each event's type, 1 where none is given; without ``data.weights`` nothing is added."""
    if not cfg.weights:
        return events
    weight = pl.col(EVENT_TYPE).replace_strict(dict(cfg.weights), default=1.0, return_dtype=pl.Float64)
    return events.with_columns(weight.fill_null(1.0).alias(WEIGHT))


def types_found(events: pl.DataFrame, cfg: DataConfig) -> Finding:
    """Count the events of each type, and say what they are and what they weigh."""
    counts = events[EVENT_TYPE].value_counts(name="rows").sort(["rows", EVENT_TYPE], descending=[True, False])
    details = tuple(
        f"{'(none)' if kind is None else kind}: {rows:,}, {role(cfg, kind)}, weight {cfg.weights.get(kind, 1.0):g}"
        for kind, rows in counts.iter_rows()
    )
    left_out, shown = is_type(events, list(cfg.left_out)).sum(), is_type(events, list(cfg.impressions)).sum()
    done = f"{left_out:,} left out, {shown:,} impressions kept apart from the history"
    return Finding("event_types", len(events), "events of a type", done, details)
