"""What the second stage reads as of a cut besides the request, and the pairs it makes of requests.

::

    events before the cut ─► candidate tables, item state ─┐
    item tower as of the cut ─► item vectors ──────────────┴─► RankingState ─┐
    requests: past events, user vectors ─────────────────────────────────────┴─► candidates ─► pairs with features

One implementation serves training snapshots, evaluation and the bundle, which stores the state as Parquet and JSON.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial

import polars as pl
import torch
from torch import Tensor
from torch.nn.functional import normalize

from recsys.data.asked import Asked
from recsys.data.candidate_sources import Source, linked, near_history, nearest, own_history, popular
from recsys.data.candidate_tables import Kind, Links, item_kinds, item_links, popular_lists
from recsys.data.candidates import Candidates, union, with_pairs
from recsys.data.item_state import ItemState, item_state
from recsys.data.log import POPULARITY_DAYS, InteractionLog
from recsys.data.pair_features import PairState, UserState, pair_numbers, users_as_of
from recsys.data.pair_plan import PairPlan
from recsys.data.past_lines import lines_of, number_events, number_items
from recsys.data.segmented import Ints
from recsys.data.topk import NONE

CODE = "code"
"""The part of the retriever's vectors that remembers single items; what is new to a user is searched without it."""
GROUP = "group"
"""The name of the users' groups in a request."""
FAVOUR = 0.8
"""Weight of a user's favoured kinds of items when the two-tower searches."""
PAIRS = 8192
"""Pairs whose vectors are in memory at a time: few enough to stay in the cache."""


@dataclass(frozen=True)
class CandidatePlan:
    """Which candidates a request gets.

    Attributes:
        limit: The most of a request.
        sizes: Source to the most items that it names; those left out are off.
        shares: Source to its share of the places, 1 where it has none; see :func:`recsys.data.candidates.union`.
        group: User attribute or context column of ``popular_in_group``; empty: none.
    """

    limit: int = 500
    sizes: Mapping[str, int] = field(default_factory=dict)
    shares: Mapping[str, float] = field(default_factory=dict)
    group: str = ""


@dataclass(frozen=True)
class CandidateTables:
    """What the sources read besides the request.

    Attributes:
        eligible: Items that may be recommended, bool ``[N]``.
        events: Of each item before the cut, int64 ``[N]``.
        kinds: Attributes by which users favour items.
        links: From items to those that are bought together with them.
        popular: Group to item rows; row -1 is overall, ``[G + 1, K]``.
        groups: Group of each user, int64 ``[U]``, -1 for none; None without groups.
    """

    eligible: Tensor
    events: Tensor
    kinds: Mapping[str, Kind]
    links: Links
    popular: Tensor
    groups: Tensor | None = None


@dataclass(frozen=True)
class RankerPairs:
    """P pairs of B requests and their candidates, sorted by request.

    Attributes:
        query: Which request, int64 ``[P]``.
        item: Item row, int64 ``[P]``.
        names: Of the numeric features, F of them.
        numbers: Float32 ``[P, F]``, NaN where missing.
        lists: Source to the items it named, ``[B, k]``, as :func:`recsys.evaluation.coverage.coverage` reads them.
        candidates: The union of these.
        requests: B.
    """

    query: Tensor
    item: Tensor
    names: tuple[str, ...]
    numbers: Tensor
    lists: Mapping[str, Tensor]
    candidates: Candidates
    requests: int

    def __len__(self) -> int:
        return len(self.query)


@dataclass(frozen=True)
class RankingState:
    """All that the second stage reads besides the request.

    Attributes:
        cut: Microseconds since 1970 UTC; nothing at or after it is known.
        plan: Features of pairs.
        candidate_plan: Sources and their sizes.
        tables: What the sources read.
        items: Items as of the cut.
        vectors: Of the items by the retriever, ``[N, D]``.
        parts: Name to the columns of a vector that it covers, from and to; the retriever's similarity is their sum.
        history: L, the last items of a user that the ranker's attention reads; 0 without attention.
    """

    cut: int
    plan: PairPlan
    candidate_plan: CandidatePlan
    tables: CandidateTables
    items: ItemState
    vectors: Tensor
    parts: Mapping[str, tuple[int, int]]
    history: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the numeric features of a pair, in the order of the columns."""
        ours = (f.name for f in self.plan.features)
        towers = [f"tower_{part}" for part in self.parts if self.parts[part][1] > self.parts[part][0]]
        return (*ours, *towers, "tower_score", *(f"rank_{name}" for name in self.candidate_plan.sizes))

    @cached_property
    def general(self) -> Tensor:
        """Vectors without the part that remembers single items, ``[N, D]``, columns side by side.

        One request is searched for in a third of the time that it takes with rows side by side.
        """
        return self.vectors[:, self.parts[CODE][1] :].T.contiguous().T

    @cached_property
    def directions(self) -> Tensor:
        """:attr:`general` scaled to length 1, for the source that compares items by cosine."""
        return normalize(self.general, dim=1)

    def groups_of(self, rows: Tensor) -> dict[str, Tensor]:
        """Return the groups of users by row, int64 ``[B]``, -1 for one that is not known; empty without groups."""
        codes = self.tables.groups
        return {} if codes is None else {GROUP: torch.where(rows >= 0, codes[rows], NONE)}

    def users(self, events: pl.DataFrame) -> UserState:
        """Sum up what users did before the cut.

        Args:
            events: Prepared events, of the users of interest at least; ``user_id`` may be any name of theirs.
        """
        return users_as_of(self.plan, self.items, events, self.cut)

    def pairs(
        self, asked: Asked, users: UserState, rows: Ints, also: tuple[Tensor, Tensor] | None = None
    ) -> RankerPairs:
        """Find the candidates of B requests and compute their features.

        Args:
            asked: The requests; their vectors are divided by the temperature of the retriever.
            users: What their users did.
            rows: Their rows in ``users``, int64 ``[B]``, -1 for none.
            also: Request and item of pairs that are candidates whether or not a source names them.
        """
        lists = {name: source(asked, self.candidate_plan.sizes[name]) for name, source in self.sources().items()}
        found = union(lists, self.candidate_plan.limit, self.candidate_plan.shares)
        if also is not None:
            found = with_pairs(found, *also)
        numbers = self.features(asked, users, rows, found)
        return RankerPairs(found.query, found.item, self.names, numbers, lists, found, len(asked))

    def features(self, asked: Asked, users: UserState, rows: Ints, found: Candidates) -> Tensor:
        """Return the numeric features of candidates, float32 ``[P, F]``, NaN where missing; columns as in ``names``."""
        state = PairState(self.plan, self.cut, self.items, users)
        own = torch.from_numpy(pair_numbers(state, rows[found.query.numpy()], found.item.numpy()))
        ranks = torch.stack([found.rank[name] for name in self.candidate_plan.sizes], 1).float()
        return torch.cat([own, self._similarity(asked, found), ranks.masked_fill_(ranks == 0, torch.nan)], 1)

    def sources(self) -> dict[str, Source]:
        """Return the sources of the plan by name."""
        tables, code_end = self.tables, self.parts[CODE][1]
        general = self.general
        kinds = list(tables.kinds.values())

        def near(asked: Asked, k: int) -> Tensor:
            some = Asked(asked.query, asked.item, asked.age, asked.vector[:, code_end:], asked.n_items, asked.groups)
            return nearest(some, k, vectors=general, eligible=tables.eligible, kinds=kinds, weight=FAVOUR)

        known: dict[str, Source] = {
            "history": partial(own_history, eligible=tables.eligible, events=tables.events),
            "nearest": near,
            "near_history": lambda asked, k: near_history(
                asked, k, directions=self.directions, eligible=tables.eligible
            ),
            "linked": partial(linked, links=tables.links, eligible=tables.eligible),
            "popular": partial(popular, lists=tables.popular[-1:]),
            "popular_in_group": partial(popular, lists=tables.popular, group=GROUP),
        }
        return {name: known[name] for name in self.candidate_plan.sizes}

    def _similarity(self, asked: Asked, found: Candidates) -> Tensor:
        """Return the retriever's similarity by parts and in all, ``[P, parts + 1]``."""
        spans = [span for span in self.parts.values() if span[1] > span[0]]
        out = torch.empty(len(found), len(spans) + 1)
        for rows in torch.arange(len(found)).split(PAIRS):
            product = asked.vector[found.query[rows]] * self.vectors[found.item[rows]]
            for place, (start, end) in enumerate(spans):
                out[rows, place] = product[:, start:end].sum(1)
        out[:, -1] = out[:, :-1].sum(1)
        return out


def fit_ranking_state(
    log: InteractionLog,
    events: pl.DataFrame,
    items: pl.DataFrame,
    item_features: Mapping[str, Tensor],
    cut: int,
    *,
    plan: PairPlan,
    candidate_plan: CandidatePlan,
    eligible: Tensor,
    vectors: Tensor,
    parts: Mapping[str, tuple[int, int]],
    groups: Tensor | None = None,
    history: int = 0,
    popularity_days: float = POPULARITY_DAYS,
) -> RankingState:
    """Sum up the events before a cut for the second stage.

    Args:
        log: Events; those at or after the cut are not read.
        events: The same as prepared.
        items: Prepared items.
        item_features: Encoded, ``[N]`` or ``[N, slots]``.
        cut: Microseconds since 1970 UTC.
        plan: Features of pairs.
        candidate_plan: Sources and their sizes.
        eligible: Items that may be recommended, bool ``[N]``.
        vectors: Of the items by the retriever as of the cut, ``[N, D]``.
        parts: Of the vectors.
        groups: Code of each user for ``popular_in_group``, int64 ``[U]``, -1 for none.
        history: L of the ranker's attention, 0 without.
        popularity_days: Over which ``popular`` and ``popular_in_group`` count.
    """
    past = log.between(None, cut)
    table = number_items(plan, items)
    ids, numbered = number_events(plan, table, events, cut)
    lines = lines_of(numbered, len(ids), cut)
    kinds = item_kinds(past, cut, item_features)
    basket = past.basket.unique(return_inverse=True)[1]
    return RankingState(
        cut,
        plan,
        candidate_plan,
        CandidateTables(
            eligible,
            torch.bincount(past.item, minlength=log.n_items),
            kinds,
            item_links(basket, past.item, log.n_items),
            popular_lists(past, cut, eligible, days=popularity_days, codes=groups),
            groups,
        ),
        item_state(plan, table, lines),
        vectors,
        parts,
        history,
    )
