"""What is made of all parts together: items, users, features and the counts of rows; one part or many."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from recsys.columns import ITEM_ID, TIMESTAMP, USER_ID
from recsys.config.data import DataConfig
from recsys.data.clean import side_table
from recsys.data.cleaning.conflicts import of_the_event
from recsys.data.cleaning.items import clean_items, typed_items
from recsys.data.guard import Guard, columns_read
from recsys.data.imputation import Imputer, imputation_facts, impute_tables
from recsys.data.infer import count_values, declared_spec, few, infer_spec
from recsys.data.part import Settled, add_up
from recsys.data.sources import Tables
from recsys.data.split import Windows
from recsys.errors import DataError
from recsys.features import FeatureSpec


@dataclass(frozen=True)
class Assembled:
    """What is kept of a data set beside its events; see :class:`recsys.data.prepared.Prepared`."""

    items: pl.DataFrame
    users: pl.DataFrame
    imputers: dict[str, Imputer]
    spec: FeatureSpec
    report: dict[str, Any]


def assemble(parts: Sequence[Settled], tables: Tables, guard: Guard, windows: Windows, cfg: DataConfig) -> Assembled:
    """Make the tables of items and users, the features and the report.

    Args:
        parts: All events, those of a user in one of them.
        tables: The other tables; of the events the columns are read.
        guard: What may be used.
        windows: The split.
        cfg: The rules.

    Raises:
        ConfigError: A feature that is declared in a way that is not legal.
        DataError: An items or users table, or a declaration, that does not fit the events.
    """
    events = pl.DataFrame(schema=parts[0].events.collect_schema())
    first = {key: _first_times(parts, key) for key in (ITEM_ID, USER_ID)}
    is_known = pl.col(TIMESTAMP) < windows.val_start
    seen = {key: times.filter(is_known)[key] for key, times in first.items()}
    lines, skipped = first[ITEM_ID], tables.skipped
    if tables.attributes:
        lines = pl.concat([part.lines for part in parts]).collect()
        if cfg.item_attributes is None and cfg.features is None:
            skipped = skipped | of_the_event(lines.filter(is_known), ITEM_ID, tables.attributes)
    attributes = [name for name in tables.attributes if name not in skipped]
    catalogue = typed_items(tables.items, events, f"data.items={cfg.items}")
    items, item_counts, item_findings = clean_items(catalogue, lines, attributes, windows, cfg)
    active = pl.concat([part.active for part in parts]).collect()
    known_users, guard_facts = guard.users(tables.users, active, cfg)
    users, user_counts = side_table(known_users, USER_ID, first[USER_ID], f"data.users={cfg.users}")
    left_out = guard_facts.get("users_left_out")
    if known_users is not None and user_counts["only_in_events"] == len(first[USER_ID]) > 0 and not left_out:
        raise DataError(
            f"data.users={cfg.users}: none of its users occurs in the events. Write their ids alike, leading zeros and"
            " blanks too, or name the right column in data.user_columns."
        )
    items, users, imputers = impute_tables(cfg.imputation, items, users, seen)
    if cfg.features is None:
        shown = items if tables.items is not None else items.filter(pl.col(ITEM_ID).is_in(seen[ITEM_ID].implode()))
        context = {name: _values(parts, name, is_known) for name in tables.context}
        spec, unused = infer_spec(context, shown, users)
    else:
        spec, unused = declared_spec(cfg.features, events, items, users), {}
    facts = add_up(part.facts for part in parts)
    reasons = {**facts.rejects, **facts.guarded}
    rows = {name: facts.rows[name] for name in ("read", "kept", "duplicates", "after_end", "impressions")}
    rows["rejected"] = sum(reasons.values())
    if rows["read"] != sum(rows.values()) - rows["read"]:
        raise AssertionError(f"rows were lost: {rows}, {reasons}")
    report = {
        "name": cfg.name,
        "rows": rows,
        "rejects": reasons,
        "cleaning": [asdict(finding) for finding in (*facts.findings, *item_findings)],
        "items": item_counts,
        "users": user_counts,
        "skipped_columns": skipped | unused,
        "features": "inferred" if cfg.features is None else "declared",
        "imputation": imputation_facts(imputers),
        "erased_list": guard.erased.digest,
        "columns": columns_read(tables, cfg.privacy),
        **guard_facts,
    }
    return Assembled(items, users, imputers, spec, report)


def _first_times(parts: Sequence[Settled], key: str) -> pl.DataFrame:
    """Return each id with the time of its first event, sorted by id."""
    firsts = [
        part.events.select(key, TIMESTAMP).group_by(key).agg(pl.col(TIMESTAMP).min()).collect(engine="streaming")
        for part in parts
    ]
    return pl.concat(firsts).group_by(key).agg(pl.col(TIMESTAMP).min()).sort(key)


def _values(parts: Sequence[Settled], name: str, is_known: pl.Expr) -> pl.DataFrame:
    counts = pl.concat([count_values(part.events.filter(is_known), name) for part in parts])
    return few(counts.group_by("value").agg(pl.col("rows").sum()).sort("value"), name)
