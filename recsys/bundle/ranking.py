"""The second stage of a bundle: candidates of a request, their features, and how the ranker orders them."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.bundle import format as part
from recsys.bundle.histories import Fresh, Ints
from recsys.bundle.parts import read_tower, run_tower
from recsys.bundle.past import Past
from recsys.columns import USER_ID
from recsys.data.asked import Asked, asked_as_of
from recsys.data.candidates import Candidates
from recsys.data.log_rows import log_of_events
from recsys.data.pair_features import UserState, user_state
from recsys.data.past_lines import lines_of
from recsys.data.ranking_state import RankerPairs
from recsys.data.ranking_store import load_state
from recsys.data.recent import Recent, history_inputs, pairs_at_once, recent_items, take_pairs
from recsys.data.sessions import visits
from recsys.data.snapshots import Snapshot, pair_inputs
from recsys.errors import BundleError, did_you_mean
from recsys.features import REQUEST

CHUNK = 65_536
"""Pairs that go through the ranker at a time."""
More = Callable[[Tensor, Sequence[Collection[int]]], Ints]
"""Finds further items for some requests, given what to leave out for each; item rows ``[b, k]``, -1 for none."""
Pairs = RankerPairs | Snapshot | Candidates
"""Pairs of requests and items; candidates alone have no features yet."""


@dataclass(frozen=True)
class Requests:
    """B requests, ready to be ranked.

    Attributes:
        asked: Their past, vectors and groups.
        users: What their users did, a row a request.
        ids: Encoded features of their users, ``[B]`` or ``[B, slots]``.
        recent: What their users had last; None for a ranker without attention.
    """

    asked: Asked
    users: UserState
    ids: dict[str, Tensor]
    recent: Recent | None

    @property
    def rows(self) -> Ints:
        """Rows of the requests in ``users``, ``[B]``."""
        return np.arange(len(self.asked))


class Ranking:
    """What the bundle's second stage holds in memory; nothing in it changes.

    Args:
        folder: Of the bundle.
        vectors: Of the items, ``[N, D]``.
        eligible: Items that may be recommended, bool ``[N]``.
        item_ids: Raw ids, ``[N]``.
        item_features: Encoded, ``[N]`` or ``[N, slots]``.
        temperature: Of the retriever.
        n_users: U.
        signature: Name of each feature that the ranker reads to its ``dtype``.
    """

    def __init__(
        self,
        folder: Path,
        vectors: Tensor,
        eligible: Tensor,
        item_ids: pl.Series,
        item_features: dict[str, Tensor],
        temperature: float,
        n_users: int,
        signature: Mapping[str, Mapping[str, Any]],
    ) -> None:
        self.state = load_state(folder / part.RANKING, vectors, item_features, eligible)
        self._calibrated = read_tower(folder / part.RANKER)
        self._folder, self._signature = folder, signature
        self._past = Past(folder / part.HISTORIES, self.state.plan, n_users, item_ids)
        self._item_ids, self._temperature = item_ids, temperature
        self._item_features = {name: ids for name, ids in item_features.items() if not ids.is_floating_point()}

    def requests(
        self,
        rows: Sequence[int],
        fresh: Sequence[Fresh],
        now: int,
        vectors: Tensor,
        people: dict[str, Tensor],
        strange: Tensor | None = None,
    ) -> Requests:
        """Collect what the sources and the features read of B requests.

        Args:
            rows: User rows; -1 is an unknown user.
            fresh: Events that the bundle does not know of.
            now: Time of the requests, microseconds since 1970 UTC.
            vectors: Of the user tower, ``[B, D]``.
            people: Encoded features of the users.
            strange: Groups of those who are unknown, int64 ``[B]``, -1 for none.
        """
        events, table = self._past.of(rows, fresh)
        # Fresh events without a time happen at the time of the request, and only earlier ones are known.
        cut = now + 1 if any(len(f.items) for f in fresh) else now
        log = log_of_events(events, len(rows), len(self._item_ids))
        known = torch.tensor(rows)
        groups = self.state.groups_of(known)
        if strange is not None:
            groups = {name: torch.where(known >= 0, codes, strange) for name, codes in groups.items()}
        asked = asked_as_of(log, torch.arange(len(rows)), cut, vectors / self._temperature, groups)
        ids = {name: column for name, column in people.items() if not column.is_floating_point()}
        recent = recent_items(asked, self.state.history) if self.state.history else None
        plan, lines = self.state.plan, lines_of(events, len(rows), cut)
        seen = visits(plan.sessions, table, cut) if plan.sessions and table is not None else None
        names = pl.Series(USER_ID, np.arange(len(rows)))
        return Requests(asked, user_state(plan, self.state.items, names, lines, seen), ids, recent)

    def candidates(self, requests: Requests) -> RankerPairs:
        """Return the candidates of the requests with their features."""
        return self.state.pairs(requests.asked, requests.users, requests.rows)

    def score(self, requests: Requests, pairs: Pairs) -> Tensor:
        """Return logit and probability of pairs, float32 ``[P, 2]``."""
        out = torch.empty(len(pairs), 2)
        for some in torch.arange(len(pairs)).split(CHUNK):
            out[some] = self.run(self.inputs(requests, pairs, some))
        return out

    def probabilities(self, requests: Requests, some: Sequence[int], rows: Ints) -> NDArray[np.float32]:
        """Return the probabilities of items that no source has named, for some requests; -inf where there is none.

        Args:
            requests: B of them.
            some: Numbers of ``b`` of them.
            rows: Item rows ``[b, k]``, -1 for none.
        """
        request, place = np.nonzero(rows >= 0)
        nowhere = {name: torch.zeros(len(place), dtype=torch.int32) for name in self.state.candidate_plan.sizes}
        query = torch.tensor(some)[torch.from_numpy(request)]
        found = Candidates(query, torch.from_numpy(rows[request, place]), nowhere)
        out = np.full(rows.shape, -np.inf, np.float32)
        out[request, place] = self.score(requests, found)[:, 1]
        return out

    def run(self, features: dict[str, Tensor]) -> Tensor:
        """Return logit and probability of P pairs of raw features, float32 ``[P, 2]``.

        Raises:
            BundleError: A feature is missing, or has another type than the ranker was trained with.
        """
        for name, legal in self._signature.items():
            dtype = str(features[name].dtype).removeprefix("torch.") if name in features else "missing"
            if dtype != legal["dtype"]:
                raise BundleError(
                    f"ranker: feature '{name}' is {dtype}, needed is {legal['dtype']} for each pair"
                    + (did_you_mean(name, features) if dtype == "missing" else ".")
                )
        if self.state.history == 0:
            return run_tower(self._calibrated, features)
        parts = torch.arange(len(features[REQUEST])).split(pairs_at_once(features, CHUNK))
        return torch.cat([run_tower(self._calibrated, take_pairs(features, rows)) for rows in parts])

    @property
    def model(self) -> Any:
        """The compiled Wide & Deep model, without the calibration."""
        return self._calibrated.ranker

    @property
    def typical(self) -> dict[str, Tensor]:
        """Typical values of the numeric features, scalars: medians over training pairs."""
        content = json.loads((self._folder / part.RANKING / part.TYPICAL).read_text(encoding="utf-8"))
        return {name: torch.tensor(float("nan") if x is None else x) for name, x in content.items()}

    def inputs(self, requests: Requests, pairs: Pairs, rows: Tensor) -> dict[str, Tensor]:
        """Return what the ranker reads of some of the pairs."""
        query, item = pairs.query[rows], pairs.item[rows]
        if isinstance(pairs, Candidates):
            some = Candidates(query, item, {name: rank[rows] for name, rank in pairs.rank.items()})
            numbers = self.state.features(requests.asked, requests.users, requests.rows, some)
        else:
            numbers = pairs.numbers[rows]
        features = pair_inputs(self.state.names, numbers, item, query, self._item_features, requests.ids)
        if requests.recent is not None:
            features |= history_inputs(requests.recent, query, self._item_features)
        return features

    def best(
        self,
        requests: Requests,
        ks: Sequence[int],
        exclude: Sequence[Collection[int]],
        more: More | None,
        allowed: Tensor | None = None,
    ) -> tuple[Ints, NDArray[np.float32]]:
        """Return the best items of each request.

        Args:
            requests: B of them.
            ks: Items of each request.
            exclude: For each request the item rows to leave out.
            more: Asked where the candidates do not suffice; None leaves it at them.
            allowed: Item rows that any of them may get, bool ``[N]``; None: all.

        Returns:
            Item rows ``[B, K]`` with K the largest of ``ks``, -1 at the end where there are fewer, and their
            probabilities, -inf there.
        """
        pairs = self.candidates(requests)
        n_items, n, k = len(self._item_ids), len(requests.asked), max(ks)
        wanted = torch.tensor(ks)
        left_out = np.concatenate([np.asarray(list(rows), np.int64) + b * n_items for b, rows in enumerate(exclude)])
        keys = (pairs.query * n_items + pairs.item).numpy()
        keep = torch.from_numpy(~np.isin(keys, left_out))
        if allowed is not None:
            keep &= allowed[pairs.item]
        query, item = pairs.query[keep], pairs.item[keep]
        scores = self.score(requests, pairs)[keep]
        short = (torch.bincount(query, minlength=n) < wanted).nonzero().squeeze(1)
        if more and len(short):
            found = pairs.query.numpy()
            taken = [[*exclude[b], *pairs.item.numpy()[np.searchsorted(found, b) : np.searchsorted(found, b, "right")]]
                     for b in short.tolist()]  # fmt: skip
            further = torch.from_numpy(more(short, taken))
            asked_for = torch.arange(further.shape[1]) < wanted[short][:, None]  # no more than if it asked alone
            row, place = ((further >= 0) & asked_for).nonzero(as_tuple=True)
            rank = {name: torch.zeros(len(row), dtype=torch.int32) for name in self.state.candidate_plan.sizes}
            extra = Candidates(short[row], further[row, place], rank)
            query, item = torch.cat([query, extra.query]), torch.cat([item, extra.item])
            scores = torch.cat([scores, self.score(requests, extra)])
        order = torch.argsort(item, stable=True)
        order = order[scores[order, 0].argsort(descending=True, stable=True)]
        order = order[query[order].argsort(stable=True)]
        query, item, probability = query[order], item[order], scores[order, 1]
        place = torch.arange(len(query)) - torch.searchsorted(query, query)
        rows, values = np.full((n, k), -1, np.int64), np.full((n, k), -np.inf, np.float32)
        top = place < wanted[query]
        rows[query[top], place[top]] = item[top]
        values[query[top], place[top]] = probability[top]
        return rows, values
