"""What the candidates of a touchpoint come from, and what they are ordered by."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from recsys.bundle.profiles import Profile
from recsys.bundle.ranking import CHUNK, Ranking, Requests
from recsys.data.asked import Asked
from recsys.data.candidate_sources import summed
from recsys.data.candidates import Candidates
from recsys.data.topk import NONE, top_rows
from recsys.errors import BundleError

FUSED_AT = 60.0
"""Constant of reciprocal rank fusion (Cormack, Clarke and Büttcher 2009)."""
DUE = "pair_due"
"""The feature of pairs behind the signal ``due``."""


class Signals:
    """Candidates of B requests at one touchpoint, and their order.

    Args:
        profile: The touchpoint.
        anchors: Item rows that each request brought, int64, B of them.
        vectors: Of the user tower, ``[B, D]``.
        items: Item vectors, ``[N, D]``.
        alike: The part of them that says what items have in common, ``[N, d]``.
        lengths: Of these, above 0, ``[N]``.
        ranking: The second stage; None without.
        requests: What it reads of the users; None without.

    Raises:
        BundleError: The profile needs a second stage, and there is none.
    """

    def __init__(
        self,
        profile: Profile,
        anchors: Sequence[Tensor],
        vectors: Tensor,
        items: Tensor,
        alike: Tensor,
        lengths: Tensor,
        ranking: Ranking | None,
        requests: Requests | None,
    ) -> None:
        self._profile, self._vectors, self._items, self._alike = profile, vectors, items, alike
        self._lengths, self._ranking, self._requests = lengths, ranking, requests
        query = torch.repeat_interleave(torch.arange(len(anchors)), torch.tensor([len(rows) for rows in anchors]))
        item = torch.cat([torch.empty(0, dtype=torch.int64), *anchors])
        wanted = {*profile.sources, *profile.order}
        self._dense: dict[str, Tensor] = {}
        if "together" in wanted:
            self._dense["together"] = self._together(query, item)
        if "similar" in wanted:
            self._dense["similar"] = self._similar(query, item)
        if "personal" in profile.sources and ranking is None:
            self._dense["personal"] = vectors @ items.T
        self._known = None
        if wanted & {"personal", "due"} and ranking is not None and requests is not None:
            self._known = ranking.candidates(requests)
            self._known_keys = self._keys(self._known.query, self._known.item)

    def candidates(self, may: Tensor) -> Candidates:
        """Return the candidates of the sources.

        Args:
            may: Which items each request may get, bool ``[B, N]``.
        """
        keys = []
        for source in self._profile.sources:
            if source in self._dense:
                keys.append(self._best(self._dense[source], may))
            elif self._known is not None:
                keys.append(self._known_keys[may[self._known.query, self._known.item]])
        return self._pairs(torch.cat(keys).unique())

    def further(self, may: Tensor) -> Candidates:
        """Return candidates where those of the sources did not suffice: the nearest to the user.

        Args:
            may: Which items each request may still get, bool ``[B, N]``.
        """
        rows = may.any(1).nonzero().squeeze(1)
        near = self._vectors[rows] @ self._items.T
        best = top_rows(near.masked_fill(~may[rows], -torch.inf), self._profile.depth)
        place, column = (best != NONE).nonzero(as_tuple=True)
        return self._pairs(self._keys(rows[place], best[place, column]).unique())

    def ordered(self, found: Candidates) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the profile's order says of candidates.

        Args:
            found: Sorted by request.

        Returns:
            Item rows ``[B, P]``, -1 for none; what they are ordered by, ``[B, P]``; and what an answer says of them,
            ``[B, P]``: where a ranker alone orders them, its probability.
        """
        values, shown = {}, None
        for name in self._profile.order:
            if name == "personal" and self._ranking is not None:
                scores = self._ranked(found)
                values[name], shown = scores[:, 0], scores[:, 1]
            else:
                values[name] = self._value(name, found)
        place = torch.arange(len(found)) - torch.searchsorted(found.query, found.query)
        shape = len(self._vectors), int(place.max()) + 1 if len(place) else 0

        def padded(value: Tensor, fill: float) -> Tensor:
            out = torch.full(shape, fill, dtype=value.dtype)
            out[found.query, place] = value
            return out

        items = padded(found.item, NONE)
        (first, *others) = [padded(value, -torch.inf) for value in values.values()]
        order = _fused([first, *others]) if others else first
        if bool((order == -torch.inf)[items != NONE].any()):  # no signal knows them: the nearest to the user first
            order = _completed(order, padded(self._near(found), -torch.inf))
        alone = shown is not None and not others
        return items, order, padded(shown, -torch.inf) if alone and shown is not None else order

    def _value(self, name: str, found: Candidates) -> Tensor:
        """Return a signal of pairs, -inf where it says nothing, float32 ``[P]``."""
        if name in self._dense:
            return self._dense[name][found.query, found.item]
        if name == "personal":
            return self._near(found)
        if self._known is None:
            raise BundleError("touchpoint: what is due again is known to bundles with a ranker alone.")
        there, place = self._look_up(found)
        out = torch.full((len(found),), -torch.inf)
        due = self._known.numbers[place, self._known.names.index(DUE)]
        out[there & (due > 0)] = due[there & (due > 0)]
        return out

    def _ranked(self, found: Candidates) -> Tensor:
        """Return logit and probability of pairs, ``[P, 2]``; the ranker's own candidates by what is known of them."""
        assert self._ranking is not None
        assert self._requests is not None
        assert self._known is not None
        there, place = self._look_up(found)
        out = torch.empty(len(found), 2)
        some = place[there]
        inputs = (self._ranking.inputs(self._requests, self._known, rows) for rows in some.split(CHUNK))
        out[there] = torch.cat([torch.empty(0, 2), *map(self._ranking.run, inputs)]) if len(some) else out[there]
        nowhere = torch.zeros(int((~there).sum()), dtype=torch.int32)
        rank = dict.fromkeys(self._ranking.state.candidate_plan.sizes, nowhere)
        out[~there] = self._ranking.score(self._requests, Candidates(found.query[~there], found.item[~there], rank))
        return out

    def _look_up(self, found: Candidates) -> tuple[Tensor, Tensor]:
        """Find pairs among the ranker's own candidates: whether they are there, and where."""
        assert self._known is not None
        if not len(self._known):
            return torch.zeros(len(found), dtype=torch.bool), torch.zeros(len(found), dtype=torch.int64)
        keys, order = self._known_keys.sort()
        wanted = self._keys(found.query, found.item)
        place = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
        return keys[place] == wanted, order[place]

    def _near(self, found: Candidates) -> Tensor:
        """Return the inner product of the vectors of pairs, ``[P]``."""
        parts = zip(found.query.split(CHUNK), found.item.split(CHUNK), strict=True)
        return torch.cat([torch.empty(0), *((self._vectors[q] * self._items[i]).sum(1) for q, i in parts)])

    def _together(self, query: Tensor, item: Tensor) -> Tensor:
        if self._ranking is None:
            raise BundleError("touchpoint: what is bought together is known to bundles with a ranker alone.")
        asked = Asked(query, item, torch.zeros(len(item)), self._vectors, len(self._items))
        rows = torch.arange(len(self._vectors))
        weights = summed(asked, torch.ones(len(item)), rows, self._ranking.state.tables.links)
        return weights.masked_fill_(weights <= 0, -torch.inf)

    def _similar(self, query: Tensor, item: Tensor) -> Tensor:
        """Return the cosine with the mean direction of the request's items, ``[B, N]``; -inf without items."""
        items, lengths = self._alike, self._lengths
        centre = torch.zeros(len(self._vectors), items.shape[1])
        centre.index_add_(0, query, items[item] / lengths[item][:, None])
        out = normalize(centre, dim=1) @ items.T / lengths
        brought = torch.zeros(len(out), dtype=torch.bool).index_fill_(0, query, True)
        return out.masked_fill_(~brought[:, None], -torch.inf)

    def _best(self, scores: Tensor, may: Tensor) -> Tensor:
        """Return the keys of the best allowed items of each request."""
        best = top_rows(scores.masked_fill(~may, -torch.inf), self._profile.depth)
        row, column = (best != NONE).nonzero(as_tuple=True)
        return self._keys(row, best[row, column])

    def _keys(self, query: Tensor, item: Tensor) -> Tensor:
        return query * len(self._items) + item

    def _pairs(self, keys: Tensor) -> Candidates:
        return Candidates(keys // len(self._items), keys % len(self._items), {})


def _fused(signals: Sequence[Tensor]) -> Tensor:
    """Fuse signals ``[B, P]`` by their ranks within a request; -inf where none of them says anything."""
    total = torch.zeros_like(signals[0])
    for signal in signals:
        rank = signal.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        total += torch.where(signal > -torch.inf, 1.0 / (FUSED_AT + 1 + rank), 0.0)
    return total.masked_fill_(total == 0, -torch.inf)


def _completed(order: Tensor, near: Tensor) -> Tensor:
    """Put what ``order`` says nothing of below the rest, by ``near``; both ``[B, P]``."""
    low = order.masked_fill(order == -torch.inf, torch.inf).amin(1, keepdim=True)
    low = torch.where(low == torch.inf, 0.0, low)
    below = low - 1.0 + (near - near.amax(1, keepdim=True))
    return torch.where((order == -torch.inf) & (near > -torch.inf), below, order)
