"""The second stage in the comparison: what a ranker says of pairs, as a scorer of the catalogue and as probabilities.

P stands for pairs of a request and a candidate, sorted by request, as :class:`~recsys.data.ranking_state.RankerPairs`
and :class:`~recsys.data.snapshots.RankingSet` hold them.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from recsys.errors import RecsysError
from recsys.evaluation.ranking import AUC, GAUC, Calibration, LogLoss, Reliability

PAIRS = 2**18
"""Pairs measured or scored at a time."""
STEP = 2.0**-10
"""Least distance of two candidates, as a share of the score below them: far above what float32 can tell apart."""


class PairScorer:
    """Scores the catalogue for users whose candidates were ranked before: candidates first, then everything else.

    The order within a user is the ranker's among the candidates, with its ties, and the retriever's among the other
    items, whose scores stay as they are. A candidate's score is the highest of those, or 0, plus its place from below
    in steps that float32 keeps apart whatever the scale of the retriever; the ranker's own values are not in it.

    Args:
        name: Of the model.
        n_items: N.
        users: User rows, int64 ``[R]``, strictly ascending.
        query: Place in ``users``, int64 ``[P]``, ascending.
        item: Item row, int64 ``[P]``, distinct within a user.
        values: The ranker's, ``[P]``, higher is better.
        fallback: The retriever's scores ``[B, N]`` of user rows ``[B]``; without, all other items are equal.

    Raises:
        RecsysError: Shapes or orders do not fit, or a value is NaN.
    """

    def __init__(
        self,
        name: str,
        n_items: int,
        users: Tensor,
        query: Tensor,
        item: Tensor,
        values: Tensor,
        fallback: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.name = name
        shapes = [tuple(part.shape) for part in (query, item, values)]
        if len(set(shapes)) > 1 or query.ndim != 1:
            raise RecsysError(f"model '{name}': query, item and values have shapes {shapes}; needed is [P] for each.")
        if bool((users.diff() <= 0).any()) or bool((query.diff() < 0).any()):
            raise RecsysError(f"model '{name}': users must rise strictly and pairs be sorted by them; sort both first.")
        if len(query) and not 0 <= int(query[0]) <= int(query[-1]) < len(users):
            raise RecsysError(
                f"model '{name}': pairs of requests {int(query[0])} to {int(query[-1])}, there are {len(users)}."
            )
        if bool(values.isnan().any()):
            raise RecsysError(f"model '{name}': a value is NaN; its training diverged or its features hold NaN.")
        self._n_items, self._fallback = n_items, fallback
        self._users, self._item = users, item
        self._first = torch.searchsorted(query, torch.arange(len(users) + 1))
        self._place = _places(query, values, self._first[query])

    def scores(self, users: Tensor) -> Tensor:
        """Return scores ``[B, N]`` float32 for user rows ``[B]``; an unknown user has no candidates.

        Raises:
            RecsysError: The retriever's scores have a wrong shape, or are too high for others to stand above them.
        """
        if self._fallback is None:
            out = torch.zeros(len(users), self._n_items)
        else:
            out = self._fallback(users).to(torch.float32, copy=True)  # it may be a view of what is used again
            if out.shape != (len(users), self._n_items):
                raise RecsysError(
                    f"model '{self.name}': the retriever's scores have shape {tuple(out.shape)}, "
                    f"needed is {(len(users), self._n_items)}."
                )
        start = self._first[torch.searchsorted(self._users, users)]
        count = self._first[torch.searchsorted(self._users, users, right=True)] - start
        row = torch.repeat_interleave(torch.arange(len(users)), count)
        pair = torch.arange(len(row)) + (start - count.cumsum(0) + count)[row]
        row, item, place = (part.to(out.device) for part in (row, self._item[pair], self._place[pair]))
        out[row, item] = -torch.inf
        below = out.amax(1).double().clamp(min=0.0)  # candidates are above 0 in any case, also where all else is masked
        step = (below * STEP).clamp(min=1.0)
        raised = (below[row] + place * step[row]).float()
        if bool((raised == torch.inf).any()):
            raise RecsysError(
                f"model '{self.name}': the retriever scores up to {float(below.max()):g}, which leaves no room for the "
                "candidates above; mask items with -inf and keep scores finite."
            )
        out[row, item] = raised
        return out


def ranking_metrics(
    logits: Tensor,
    probabilities: Tensor,
    labels: Tensor,
    query: Tensor,
    segment: Tensor | None = None,
    segments: Sequence[str] = (),
) -> tuple[dict[str, float], dict[str, Reliability]]:
    """Measure how a ranker orders pairs, and how true its probabilities are.

    Args:
        logits: What the order is judged by, ``[P]``: calibrated probabilities may have ties that the ranker has not.
        probabilities: Calibrated, in [0, 1], ``[P]``.
        labels: 0 or 1, ``[P]``.
        query: Which request, int64 ``[P]``, ascending.
        segment: Place in ``segments`` of each pair, int64 ``[P]``.
        segments: Names of the segments whose calibration is measured apart.

    Returns:
        ``auc``, ``gauc``, ``gauc_users``, ``log_loss``, ``normalized_entropy``, ``base_rate``, ``mean_probability``,
        ``ece`` and ``<segment>/ece``, NaN where there is nothing to measure; and the reliability curves of ``all`` and
        of each segment.

    Raises:
        RecsysError: Shapes do not fit, the pairs are not sorted, or a number is not what it should be.
    """
    if bool((query.diff() < 0).any()):
        raise RecsysError("ranking metrics: pairs must be sorted by their request; sort them first.")
    alone = {"sync_on_compute": False}  # of several processes one measures, and it has all pairs
    area, by_user, loss, calibration = AUC(**alone), GAUC(**alone), LogLoss(**alone), Calibration(segments, **alone)
    cuts = torch.searchsorted(query, query[::PAIRS].contiguous()).unique().tolist() or [0]  # no request is torn apart
    for start, end in pairwise([*cuts, len(query)]):
        some = slice(start, end)
        area.update(logits[some], labels[some])
        by_user.update(logits[some], labels[some], query[some])
        loss.update(probabilities[some], labels[some])
        calibration.update(probabilities[some], labels[some], None if segment is None else segment[some])
    found = {"auc": area.compute()} | by_user.compute() | loss.compute() | calibration.compute()
    return {key: float(value) for key, value in found.items()}, calibration.curves()


def _places(query: Tensor, values: Tensor, first: Tensor) -> Tensor:
    """Return the place from below, from 1, of each value among the distinct values of its request, int64 ``[P]``.

    Args:
        query: Which request, ascending, ``[P]``.
        values: ``[P]``.
        first: Row of the first pair of each pair's request, ``[P]``.
    """
    order = values.argsort(stable=True)
    order = order[query[order].argsort(stable=True)]
    ordered = values[order]
    other = torch.ones_like(query, dtype=torch.bool)  # the sorted queries are the queries
    other[1:] = query[1:] != query[:-1]
    height = (other | torch.cat([other[:1], ordered[1:] != ordered[:-1]])).cumsum(0)
    places = torch.empty_like(query)
    places[order] = height - height[first] + 1
    return places
