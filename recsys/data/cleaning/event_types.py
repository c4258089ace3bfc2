"""What each type of event is to the models: relevant, history, an impression, a return, or nothing."""

from collections.abc import Collection

import polars as pl

from recsys.columns import EVENT_TYPE, EVENT_WEIGHT
from recsys.config.data import DataConfig
from recsys.data.cleaning.finding import Finding
from recsys.data.sources import REJECT_REASON, ROW_NUMBER, named_types
from recsys.errors import DataError, did_you_mean


def leave_out(source: pl.DataFrame, cfg: DataConfig) -> tuple[pl.DataFrame, pl.DataFrame, tuple[Finding, ...]]:
    """Set the events of the types in ``data.left_out`` aside, before anything is asked of them: searches have no item.

    Returns:
        The other rows; ``row_number, reject_reason`` of those set aside; how many of each type they are.
    """
    if not cfg.left_out:
        return source, _set_aside(source.clear()), ()
    kinds = source[EVENT_TYPE].cast(pl.String)
    mask = kinds.is_in(list(cfg.left_out)).fill_null(False)
    counts = kinds.filter(mask).alias("kind").value_counts(name="rows").sort(["rows", "kind"], descending=[True, False])
    found = Finding(
        "left_out", int(mask.sum()), "events of types that are left out", "dropped", tuple(counts.iter_rows())
    )
    return source.filter(~mask), _set_aside(source.filter(mask)), (found,)


def _set_aside(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select(pl.col(ROW_NUMBER), pl.lit("event_type_left_out").alias(REJECT_REASON))


def check_types(kinds: Collection[str], cfg: DataConfig, place: str) -> None:
    """Check that every event type occurs that the configuration names.

    Args:
        kinds: Types of all events.
        cfg: Names some.
        place: For messages.

    Raises:
        DataError: One does not, with those that do.
    """
    present = sorted(kinds)
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
    if kind in cfg.impressions:
        return "impressions"
    if kind in cfg.cleaning.returns.event_types:
        return "returns"
    return "relevant" if not cfg.relevant or kind in cfg.relevant else "history only"


def weighted(events: pl.DataFrame, cfg: DataConfig) -> pl.DataFrame:
    """Add the weight of each event's type, 1 where none is given; without ``data.weights`` nothing is added.

    Raises:
        DataError: The events have a column of that name.
    """
    if not cfg.weights:
        return events
    if EVENT_WEIGHT in events.columns:
        raise DataError(
            f"data.weights makes a column '{EVENT_WEIGHT}', which the events have; map theirs to another name."
        )
    weight = pl.col(EVENT_TYPE).replace_strict(dict(cfg.weights), default=1.0, return_dtype=pl.Float64)
    return events.with_columns(weight.fill_null(1.0).alias(EVENT_WEIGHT))


def types_found(events: pl.DataFrame, cfg: DataConfig) -> Finding:
    """Count the events of each type, and say what they are and what they weigh."""
    counts = events[EVENT_TYPE].value_counts(name="rows").sort(["rows", EVENT_TYPE], descending=[True, False])
    parts = tuple(
        (f"{'(none)' if kind is None else kind}, {role(cfg, kind)}, weight {cfg.weights.get(kind, 1.0):g}", rows)
        for kind, rows in counts.iter_rows()
    )
    done = "each has its role; impressions are kept apart from the history"
    return Finding("event_types", len(events), "events by type", done, parts)
