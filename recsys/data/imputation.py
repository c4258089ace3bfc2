"""Values for missing attributes of items and users, fitted on those of the training window.

::

    attributes of items seen in training ─► some values hidden ─► each method's accuracy on them ─► the method
                                        └─► fitted again with all values: Imputer, plain data ─► fills any table
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl

from recsys.columns import ITEM_ID, USER_ID
from recsys.config.data import ImputationConfig
from recsys.data.imputation_hidden import accuracy, hide
from recsys.data.imputation_methods import Peers, finite, from_groups, group_values, is_category, usual_value
from recsys.errors import DataError, did_you_mean

METHODS = ("missing", "most_frequent", "median", "knn", "iterative")
"""From the simplest to the most elaborate; of equally accurate ones ``auto`` takes the first."""
MAX_GROUPS = 8
"""Groups that are tried when none are configured, those with the fewest gaps."""


@dataclass(frozen=True)
class Filler:
    """What fills the gaps of one column.

    Attributes:
        column: An attribute.
        method: One of :data:`METHODS`.
        category: Whether its values are names rather than quantities.
        flag: Column that keeps where a value was missing, as 0 or 1; empty where no training row misses one.
        usual: The most frequent value or the median; what is left where a method has no answer.
        own: The value of ``missing``: a text or number that no row has; null, which models read as missing, for
            quantities.
        groups: Columns within which ``most_frequent`` and ``median`` look, in this order; none with another method.
        tables: Of each group, ``group`` and ``value``.
        gaps: Training rows without a value.
        hidden: Values that were hidden to measure.
        accuracy: Method to what :func:`~recsys.data.imputation_hidden.accuracy` says of it; empty where nothing could
            be hidden.
    """

    column: str
    method: str
    category: bool
    flag: str
    usual: Any
    own: Any
    groups: tuple[str, ...] = ()
    tables: tuple[pl.DataFrame, ...] = ()
    gaps: int = 0
    hidden: int = 0
    accuracy: Mapping[str, float] = field(default_factory=dict)

    def answers(self, asked: pl.DataFrame, peers: Peers) -> pl.Series:
        """Return a value for each row, of the column's type."""
        if self.method == "missing":
            return pl.Series(self.column, [self.own], asked.schema[self.column]).new_from_index(0, len(asked))
        if self.method == "knn":
            found = peers.nearest(self.column, asked)
        elif self.method == "iterative":
            found = peers.chained(self.column, asked)
        else:
            found = (
                from_groups(asked, self.groups, self.tables) if self.groups else asked[self.column].clear(len(asked))
            )
        return (found if self.usual is None else found.fill_null(self.usual)).alias(self.column)


@dataclass(frozen=True)
class Imputer:
    """What fills the gaps of a table; plain data, see :mod:`recsys.data.imputation_store`.

    Attributes:
        fillers: Of each column that is filled.
        peers: Rows that neighbours and trees know of; none where no column needs them.
    """

    fillers: tuple[Filler, ...]
    peers: Peers


def fit_imputer(
    table: pl.DataFrame,
    seen: pl.Series,
    default: str = "auto",
    methods: Mapping[str, str] | None = None,
    groups: Sequence[str] | None = None,
) -> Imputer:
    """Measure the methods, choose and fit.

    Each of the methods that a column allows is measured by values that are hidden in some rows; ``auto`` takes the
    most accurate. The order of rows plays no part, nor do those that are not ``seen``.

    Args:
        table: ``item_id`` or ``user_id``, unique, and attributes of Int64, Float64 or String.
        seen: Ids of the training window; nothing of other rows is read.
        default: Of columns without a method of their own in which a training row has a gap: one of :data:`METHODS`,
            where ``most_frequent`` and ``median`` both mean the one that fits; ``auto`` or ``none``.
        methods: Column to method, ``auto`` or ``none``.
        groups: Columns within which ``most_frequent`` and ``median`` look, the first one first. None tries each
            category and takes the one first that answers most hidden values.

    Raises:
        DataError: A column that is not there, or a method that does not fit its values.
    """
    methods = methods or {}
    (key, *columns) = table.columns
    for name in (*methods, *(groups or ())):
        if name not in columns:
            raise DataError(
                f"data.imputation: '{name}' is no attribute of the table of {key}; there are: "
                f"{', '.join(columns) or 'none'}.{did_you_mean(name, columns)}"
            )
    known = finite(table.filter(pl.col(key).is_in(seen.implode())).sort(key).drop(key))
    categories = [c for c in columns if is_category(known[c])]
    targets = [
        c for c in columns if _method(c, known, default, methods) != "none" and known[c].null_count() < len(known)
    ]
    for name in targets:
        _refuse_unfit(name, methods.get(name, "auto"), name in categories)
    fillers = []
    for name in targets:
        masked, drawn = hide(known, name)
        peers = Peers.draw(masked, targets, categories)
        trial = _Trial(masked, masked.filter(drawn), known[name].filter(drawn), peers)
        bare = _bare(known, name, name in categories, table.columns)
        tried = _groups(known, name, categories) if groups is None else [g for g in groups if g != name]
        filler = _choose(bare, _method(name, known, default, methods), tried, groups is None, trial)
        fillers.append(_with_tables(filler, known))
    if {f.method for f in fillers} & {"knn", "iterative"}:
        return Imputer(tuple(fillers), Peers.draw(known, targets, categories))
    return Imputer(tuple(fillers), Peers(pl.DataFrame(), (), ()))


def refit(imputer: Imputer, table: pl.DataFrame, seen: pl.Series) -> Imputer:
    """Fit the same methods once more, on fewer rows of the table that an imputer was fitted on and has filled.

    What it filled is a gap again. The result is what :func:`fit_imputer` makes of these rows with these methods, but
    for the accuracy, which is not measured anew.

    Args:
        imputer: Fitted.
        table: As :func:`impute` left it, with the flags.
        seen: Ids of the training window; nothing of other rows is read.
    """
    key, rows = table.columns[0], imputer.peers.rows
    gaps = [pl.when(pl.col(f.flag) == 0).then(f.column).alias(f.column) for f in imputer.fillers if f.flag]
    known = finite(table.filter(pl.col(key).is_in(seen.implode())).sort(key).with_columns(gaps))
    fillers = []
    for f in imputer.fillers:
        values = known[f.column]
        fresh = replace(f, usual=usual_value(values, f.category), gaps=values.null_count())
        fillers.append(_with_tables(fresh, known))
    peers = Peers.draw(known.select(rows.columns), imputer.peers.targets, imputer.peers.categories)
    return Imputer(tuple(fillers), peers)


def impute(imputer: Imputer, table: pl.DataFrame) -> pl.DataFrame:
    """Fill the gaps of a table and add the flags, Int64 0 or 1, as last columns.

    Args:
        imputer: Fitted.
        table: Has the columns that the imputer was fitted with, whatever its rows. Values that are there stay, but for
            numbers that are not finite: they are missing.

    Raises:
        DataError: A column is not there.
    """
    needed = {*imputer.peers.rows.columns, *(c for f in imputer.fillers for c in (f.column, *f.groups))}
    missing = sorted(needed - set(table.columns))
    if missing:
        raise DataError(f"imputation: the table has no column '{missing[0]}', which the fitted values need; add it.")
    plain = finite(table)
    filled, flags = [], []
    for filler in imputer.fillers:
        gap = plain[filler.column].is_null()
        values = filler.answers(plain.filter(gap), imputer.peers)
        place = pl.select(pl.when(gap).then(gap.cum_sum().cast(pl.Int64) - 1)).to_series()
        filled.append(
            pl.select(pl.coalesce(plain[filler.column], values.gather(place))).to_series().alias(filler.column)
        )
        if filler.flag:
            flags.append(gap.cast(pl.Int64).alias(filler.flag))
    return table.with_columns(filled).with_columns(flags)


def impute_tables(
    cfg: ImputationConfig, items: pl.DataFrame, users: pl.DataFrame, seen: Mapping[str, pl.Series]
) -> tuple[pl.DataFrame, pl.DataFrame, dict[str, Imputer]]:
    """Fill the attributes of items and users with what those of the training window say.

    Args:
        cfg: What fills what.
        items: One row an item.
        users: One row a user.
        seen: By ``item_id`` and ``user_id``, those of the training window.

    Returns:
        Items, users and, by ``items`` or ``users``, what filled them; empty where nothing was asked for.

    Raises:
        DataError: As :func:`fit_imputer`.
    """
    done, imputers = {"items": items, "users": users}, {}
    sides = (("items", ITEM_ID, cfg.items, cfg.item_groups), ("users", USER_ID, cfg.users, cfg.user_groups))
    for name, key, methods, groups in sides:
        table = done[name].select(key, pl.exclude(key))
        if cfg.default == "none" and not methods:
            continue
        imputer = fit_imputer(table, seen[key], cfg.default, methods, groups)
        if imputer.fillers:
            done[name], imputers[name] = impute(imputer, table), imputer
    return done["items"], done["users"], imputers


def imputation_facts(imputers: Mapping[str, Imputer]) -> list[dict[str, Any]]:
    """Return what the data report shows of each column: plain data."""
    return [
        {
            "table": table,
            "column": f.column,
            "method": f.method,
            "groups": list(f.groups),
            "gaps": f.gaps,
            "hidden": f.hidden,
            "accuracy": dict(f.accuracy),
        }
        for table, imputer in imputers.items()
        for f in imputer.fillers
    ]


@dataclass(frozen=True)
class _Trial:
    """What the methods are measured on: all rows with values hidden, those of them that are asked, and the truth."""

    masked: pl.DataFrame
    asked: pl.DataFrame
    truth: pl.Series
    peers: Peers

    def measure(self, filler: Filler) -> float:
        """Fit a filler on what is not hidden and return its accuracy on what is; 0 where nothing is."""
        if self.asked.is_empty():
            return 0.0
        usual = usual_value(self.masked[filler.column], filler.category)
        fitted = _with_tables(replace(filler, usual=usual), self.masked)
        return accuracy(fitted.answers(self.asked, self.peers), self.truth, filler.category, usual)


def _choose(bare: Filler, wanted: str, groups: Sequence[str], by_score: bool, trial: _Trial) -> Filler:
    """Measure the methods that the column allows, and take the wanted one or the most accurate."""
    if by_score:
        score = {group: trial.measure(replace(bare, groups=(group,))) for group in groups}
        groups = sorted(groups, key=lambda group: (-score[group], group))
    filler = replace(bare, groups=tuple(groups), hidden=len(trial.asked))
    found: dict[str, float] = {}
    if filler.hidden:
        legal = [m for m in METHODS if m == bare.method or m not in ("most_frequent", "median")]
        found = {method: trial.measure(replace(filler, method=method)) for method in legal}
    if wanted == "auto" and found:
        wanted = max(found, key=lambda method: found[method])
    elif wanted in ("auto", "most_frequent", "median"):
        wanted = bare.method
    return replace(filler, method=wanted, accuracy=found)


def _method(column: str, known: pl.DataFrame, default: str, methods: Mapping[str, str]) -> str:
    """Return what was asked for; ``none`` for a column without gaps that was not named, or without values."""
    if known[column].null_count() == len(known):
        return "none"
    return methods.get(column, default if known[column].null_count() else "none")


def _refuse_unfit(column: str, method: str, category: bool) -> None:
    unfit = "median" if category else "most_frequent"
    if method == unfit:
        legal = ", ".join(m for m in METHODS if m != unfit)
        kind = "names (text, ids, or few whole numbers)" if category else "quantities"
        raise DataError(
            f"data.imputation: '{column}' cannot be filled by '{method}', its values are {kind}; "
            f"legal: {legal}, auto, none."
        )


def _groups(known: pl.DataFrame, column: str, categories: Sequence[str]) -> list[str]:
    """Return the categories that could tell about a column: some rows share their values, and not all do."""
    counts = {c: known[c].drop_nulls().n_unique() for c in categories if c != column}
    rows = {c: len(known) - known[c].null_count() for c in counts}
    fitting = [c for c in counts if 2 <= counts[c] <= rows[c] // 2]
    return sorted(fitting, key=lambda c: (-rows[c], c))[:MAX_GROUPS]


def _bare(known: pl.DataFrame, column: str, category: bool, taken: Sequence[str]) -> Filler:
    """Return a filler by the usual value of all rows."""
    values = known[column]
    own: Any = None
    if category and values.dtype == pl.String:
        own = "missing"
        while own in values:
            own = f"({own})"
    elif category:
        own = min(values.min(), 0) - 1  # type: ignore[type-var, operator]
    flag = ""
    if values.null_count():
        flag = f"{column}_missing"
        while flag in taken:
            flag += "_"
    method = "most_frequent" if category else "median"
    return Filler(column, method, category, flag, usual_value(values, category), own, gaps=values.null_count())


def _with_tables(filler: Filler, rows: pl.DataFrame) -> Filler:
    """Fit the groups of a filler that has need of them; another has none."""
    if filler.method not in ("most_frequent", "median"):
        return replace(filler, groups=())
    tables = tuple(group_values(rows, filler.column, group, filler.category) for group in filler.groups)
    return replace(filler, tables=tables)
