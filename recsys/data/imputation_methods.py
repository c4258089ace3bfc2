"""What could stand where an attribute is missing: the usual value of a group, that of similar rows, a chain of trees.

Tables are prepared: Int64, Float64 or String. Every method answers with values that it has seen (numbers: with
medians and means of them), or with null where it has nothing to say.
"""

import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

MAX_ROWS = 10_000
"""Rows that neighbours are looked for among, and that the trees are grown on; more are drawn down to so many."""
MAX_COLUMNS = 12
"""Columns that neighbours and trees read, those with the fewest gaps first."""
MAX_VALUES = 255
"""Values of a category that the trees tell apart, the most frequent; the others are one to them, and no answer."""
NEIGHBOURS = 10
ROUNDS = 3
LEAF = 5
"""Rows in a leaf of a tree, at least."""
CHUNK = 8192
"""Rows asked about at a time; bounds memory at about so many times :data:`MAX_VALUES` times 8 bytes."""
_NUMBERS = 50  # an integer column with more distinct values is a quantity, as for inferred features
_BINS = 10
_MISSING, _UNSEEN = -1, -2

Matrix = NDArray[np.float64]


def is_category(values: pl.Series) -> bool:
    """Whether the values of a column are names rather than quantities: text, ids, and few whole numbers."""
    if values.dtype == pl.String or values.name.endswith("_id"):
        return True
    return bool(values.dtype == pl.Int64 and values.drop_nulls().n_unique() <= _NUMBERS)


def usual_value(values: pl.Series, category: bool) -> Any:
    """Return the most frequent value of a category (the smallest of equally frequent ones) or the median of a number.

    None without a value. The median of whole numbers is rounded down, so that it stays one.
    """
    return pl.DataFrame({"value": values}).select(_usual(category, values.dtype)).item()


def group_values(table: pl.DataFrame, column: str, group: str, category: bool) -> pl.DataFrame:
    """Return ``group`` and ``value``: the usual value of a column for each value of another one, sorted by it."""
    known = table.select(group=group, value=column).drop_nulls()
    return known.group_by("group").agg(_usual(category, table.schema[column])).sort("group")


def from_groups(asked: pl.DataFrame, groups: Sequence[str], tables: Sequence[pl.DataFrame]) -> pl.Series:
    """Return the usual value of the first group of each row that has one, else null.

    Args:
        asked: Rows with the columns ``groups``.
        groups: One or more, the first looked at first.
        tables: Of each group, from :func:`group_values`.
    """
    found = [
        asked.select(group=group).join(table, on="group", how="left", maintain_order="left")["value"]
        for group, table in zip(groups, tables, strict=True)
    ]
    return pl.DataFrame([values.alias(str(n)) for n, values in enumerate(found)]).select(pl.coalesce("*")).to_series()


@dataclass(frozen=True)
class Peers:
    """Rows of the window that is fitted on; what neighbours and trees know, they know of these.

    Attributes:
        rows: At most :data:`MAX_ROWS`, in a fixed order, with gaps.
        targets: Columns that can be filled, of those that were asked for the first :data:`MAX_COLUMNS`.
        categories: Columns whose values are names rather than quantities.
    """

    rows: pl.DataFrame
    targets: tuple[str, ...]
    categories: tuple[str, ...]

    @classmethod
    def draw(cls, table: pl.DataFrame, targets: Sequence[str], categories: Collection[str]) -> "Peers":
        """Draw rows, always the same of the same table in the same order."""
        rows = table
        if len(table) > MAX_ROWS:
            drawn = np.sort(np.random.default_rng(0).permutation(len(table))[:MAX_ROWS])
            rows = table[drawn]
        first = [c for c in table.columns if c in targets][:MAX_COLUMNS]
        gaps = {c: table[c].null_count() for c in table.columns if c not in first}
        read = {*first, *sorted(gaps, key=lambda c: (gaps[c], c))[: MAX_COLUMNS - len(first)]}
        names = [c for c in table.columns if c in read]
        return cls(rows.select(names), tuple(first), tuple(c for c in names if c in categories))

    def nearest(self, column: str, asked: pl.DataFrame) -> pl.Series:
        """Return the most frequent value (the nearest row's of equals), or the median, of the nearest rows.

        Near are rows that agree in many columns (simple matching; numbers agree within a tenth of their distribution,
        gaps with nothing); the nearest are :data:`NEIGHBOURS` of those that have a value and agree in one at least.
        """
        from sklearn import config_context
        from sklearn.neighbors import NearestNeighbors

        others = [c for c in self.rows.columns if c != column]
        if column not in self.targets or not others or asked.is_empty():
            return _nothing(asked[column])
        known = self.rows.filter(pl.col(column).is_not_null())
        if known.is_empty():
            return _nothing(asked[column])
        model = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(known)), metric="hamming", algorithm="brute")
        model.fit(np.column_stack([self._bins(known[c], known, _MISSING) for c in others]))
        distinct, origin = np.unique(
            np.column_stack([self._bins(asked[c], known, _UNSEEN) for c in others]), axis=0, return_inverse=True
        )
        with config_context(working_memory=64):  # MiB; its own default takes 1,024
            distance, near = model.kneighbors(distinct)
        votes = pl.DataFrame({"row": np.repeat(np.arange(len(near)), near.shape[1]), "distance": distance.ravel()})
        votes = votes.with_columns(place=pl.int_range(pl.len()), value=known[column].gather(near.ravel()))
        votes = votes.filter(pl.col("distance") < 1)
        if column in self.categories:
            counted = votes.group_by("row", "value").agg(count=pl.len(), place=pl.col("place").min())
            best = counted.sort("row", "count", "place", descending=[False, True, False])
            answers = best.unique("row", keep="first", maintain_order=True)
        else:
            answers = votes.group_by("row").agg(_usual(False, known.schema[column]))
        rows = pl.DataFrame({"row": origin.ravel()})
        return rows.join(answers, on="row", how="left", maintain_order="left")["value"].alias(column)

    def chained(self, column: str, asked: pl.DataFrame) -> pl.Series:
        """Return what trees say that predict each column from all others, in turn, for some rounds.

        scikit-learn's ``IterativeImputer`` (chained equations: van Buuren and Groothuis-Oudshoorn 2011) with
        classification and regression trees (Burgette and Reiter 2010). A rare value of a category is no answer: null,
        as for a column that is not read.
        """
        if column not in self.targets or asked.is_empty() or self.rows[column].null_count() == len(self.rows):
            return _nothing(asked[column])
        place = self.rows.columns.index(column)
        distinct, origin = np.unique(self._matrix(asked), axis=0, return_inverse=True)
        parts = np.split(distinct, range(CHUNK, len(distinct), CHUNK))
        values = np.concatenate([self._chain.transform(part)[:, place] for part in parts])[origin.ravel()]
        if column not in self.categories:
            whole = asked.schema[column] == pl.Int64
            return pl.Series(column, np.round(values) if whole else values).cast(asked.schema[column])
        known = self._values[column]
        codes = pl.Series(values).round().cast(pl.Int64)
        return known.gather(pl.select(pl.when(codes < len(known)).then(codes)).to_series()).alias(column)

    def _bins(self, values: pl.Series, known: pl.DataFrame, missing: int) -> NDArray[np.int64]:
        """Return small whole numbers that are equal where values are alike, as told by known rows."""
        peers = known[values.name].drop_nulls()
        if values.name in self.categories:
            return _codes(values, peers.unique().sort(), _UNSEEN, missing)
        numbers = peers.cast(pl.Float64).to_numpy()
        edges = np.unique(np.quantile(numbers, np.arange(1, _BINS) / _BINS)) if len(numbers) else numbers
        asked = values.cast(pl.Float64).fill_null(float("nan")).to_numpy()
        return np.where(np.isnan(asked), missing, np.searchsorted(edges, asked, side="right")).astype(np.int64)

    @cached_property
    def _values(self) -> dict[str, pl.Series]:
        """The most frequent values of each category, sorted; the place of a value is its code."""
        out = {}
        for name in self.categories:
            counts = self.rows.select(value=name).drop_nulls().group_by("value").agg(n=pl.len())
            most = counts.sort("n", "value", descending=[True, False]).head(MAX_VALUES)
            out[name] = most["value"].sort()
        return out

    def _matrix(self, table: pl.DataFrame) -> Matrix:
        """Return rows as numbers, NaN where missing: codes of categories, quantities as they are."""
        columns = []
        for name in self.rows.columns:
            if name in self._values:
                column = _codes(table[name], self._values[name], len(self._values[name]), _MISSING)
                columns.append(np.where(column == _MISSING, np.nan, column))
            else:
                columns.append(table[name].cast(pl.Float64).fill_null(float("nan")).to_numpy())
        return np.column_stack(columns)

    @cached_property
    def _chain(self) -> Any:
        """The fitted chain, the same for the same rows."""
        from sklearn.base import BaseEstimator
        from sklearn.experimental import enable_iterative_imputer  # noqa: F401
        from sklearn.impute import IterativeImputer
        from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

        class Tree(BaseEstimator):
            """Classifies codes and small whole numbers; predicts the mean of other numbers."""

            def fit(self, x: Matrix, y: Matrix) -> "Tree":
                is_code = bool((y == np.round(y)).all() and y.min() >= 0 and y.max() <= MAX_VALUES)
                kind = DecisionTreeClassifier if is_code else DecisionTreeRegressor
                self.tree_ = kind(min_samples_leaf=LEAF, random_state=0).fit(x, y)
                return self

            def predict(self, x: Matrix) -> Matrix:
                return np.asarray(self.tree_.predict(x), dtype=np.float64)

        # After so many rounds it stops whether or not the answers still change, which it warns of; of many values for
        # few rows, too.
        chain = IterativeImputer(
            Tree(), max_iter=ROUNDS, initial_strategy="most_frequent", random_state=0, keep_empty_features=True
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return chain.fit(self._matrix(self.rows))


def finite(table: pl.DataFrame) -> pl.DataFrame:
    """Return the table with null in place of numbers that are not finite."""
    floats = [pl.when(pl.col(c).is_finite()).then(c).alias(c) for c, t in table.schema.items() if t == pl.Float64]
    return table.with_columns(floats)


def _nothing(like: pl.Series) -> pl.Series:
    return like.clear(len(like))


def _usual(category: bool, dtype: pl.DataType) -> pl.Expr:
    known = pl.col("value").drop_nulls()
    if category:
        return known.mode().min()
    median = known.median()
    return (median.floor() if dtype == pl.Int64 else median).cast(dtype)


def _codes(values: pl.Series, known: pl.Series, unseen: int, missing: int) -> NDArray[np.int64]:
    """Return the place of each value among the known ones, ``unseen`` where it is none of them."""
    table = pl.DataFrame({"value": known, "code": np.arange(len(known), dtype=np.int64)})
    code = pl.DataFrame({"value": values}).join(table, on="value", how="left", maintain_order="left")["code"]
    return code.fill_null(unseen).set(values.is_null(), missing).to_numpy()
