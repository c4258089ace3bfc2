"""Nearest neighbours by inner product (faiss); :mod:`recsys.export.index` builds what is searched here.

Graphs and clusters are made for distances. The items get one more component that makes them equally long,
``sqrt(longest^2 - |x|^2)``, and the queries a zero in its place; the order by distance is then the order by inner
product (Bachrach et al. 2014).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.errors import BundleError

Matrix = NDArray[np.float32]
NO_ROWS = np.empty(0, np.int64)
FEW = 20_000
"""Allowed items that are scored one by one faster than an index finds its way among the others."""
MARGIN = 1.2
"""A reader rescores exactly, so the index is asked for a few more than the answer has."""


@dataclass(frozen=True)
class ItemIndex:
    """A searchable set of item vectors with their row numbers as payload.

    Attributes:
        index: The faiss index.
        search_width: Candidates that a search of the graph keeps, or clusters that are looked into.
    """

    index: Any
    search_width: int

    def __len__(self) -> int:
        return int(self.index.ntotal)

    def search(self, vectors: Matrix, k: int, allowed: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
        """Return the rows ``[B, k]`` of the nearest items, -1 where nothing was found.

        Args:
            vectors: ``[B, D]``.
            k: Items a query.
            allowed: Rows that may be found, ``[N]``; None: all.
        """
        rows = np.full((len(vectors), k), -1, dtype=np.int64)
        take = min(k, len(self))
        if take and len(vectors):
            queries = np.zeros((len(vectors), self.index.d), dtype=np.float32)
            queries[:, : vectors.shape[1]] = vectors
            params = None if allowed is None else self._within(allowed)
            rows[:, :take] = self.index.search(queries, take, params=params)[1]
        return rows

    def _within(self, allowed: NDArray[np.bool_]) -> Any:
        """Return parameters of a search that passes over all other rows, and goes as much further as there are."""
        import faiss

        kinds: Any = faiss  # whose stubs do not know what its constructors take
        some = kinds.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
        core = kinds.downcast_index(self.index.index)
        width = round(self.search_width / max(float(allowed.mean()), 1 / len(allowed)))
        if hasattr(core, "hnsw"):
            return kinds.SearchParametersHNSW(sel=some, efSearch=min(width, len(self)))
        if hasattr(core, "nprobe"):
            return kinds.SearchParametersIVF(sel=some, nprobe=min(width, core.nlist))
        return kinds.SearchParameters(sel=some)

    def save(self, path: Path) -> None:
        """Write the index in faiss' own format.

        Raises:
            OSError: The place cannot be written to, or is full.
        """
        import faiss

        path.write_bytes(faiss.serialize_index(self.index).data)  # its own writer raises no OSError

    @classmethod
    def load(cls, path: Path, search_width: int) -> "ItemIndex":
        """Read what :meth:`save` wrote.

        Raises:
            BundleError: faiss cannot read the file.
        """
        import faiss

        try:
            index = faiss.read_index(str(path))
        except RuntimeError as error:
            raise BundleError(f"part '{path.name}': faiss cannot read it; export the bundle again.") from error
        set_width(index, search_width)
        return cls(index, search_width)


def best_items(
    index: ItemIndex,
    items: Tensor,
    eligible: Tensor,
    vectors: Tensor,
    k: int,
    exclude: Sequence[Collection[int]] | None = None,
    allowed: Tensor | None = None,
) -> tuple[NDArray[np.int64], Matrix]:
    """Return the best eligible items for user vectors: found by the index, scored and ordered exactly.

    What is left out takes no place of the answer: the search passes over what is not allowed, and is asked for more
    where a user leaves out items of their own. Where few are left, or the search finds too few, all of them are scored.

    Args:
        index: Of the eligible items.
        items: Vectors of all items, ``[N, D]``.
        eligible: bool ``[N]``.
        vectors: ``[B, D]``.
        k: Items a user, at least 1.
        exclude: For each user the item rows to leave out.
        allowed: Item rows that any of them may get, bool ``[N]``; None: all.

    Returns:
        Item rows ``[B, k]``, best first, and their scores; where there are fewer than ``k`` items the rows end in -1
        and the scores in -inf.
    """
    may = eligible if allowed is None else eligible & allowed
    left = may.nonzero().squeeze(1)
    left_out = [NO_ROWS] * len(vectors) if exclude is None else [np.fromiter(set(r), np.int64) for r in exclude]
    extra = max((len(rows) for rows in left_out), default=0)
    depth = min(round(MARGIN * k) + extra, len(left))
    near = None
    if allowed is None or len(left) > FEW:
        near = index.search(vectors.numpy(), depth, None if allowed is None else may.numpy())
    chosen = items[left] if near is None else None
    found = np.full((len(vectors), k), -1, dtype=np.int64)
    scores = np.full((len(vectors), k), -np.inf, dtype=np.float32)
    for b, dropped in enumerate(left_out):
        rows = NO_ROWS if near is None else near[b][(near[b] >= 0) & ~np.isin(near[b], dropped)]
        available = len(left) - int(may[torch.from_numpy(dropped)].sum())
        if len(rows) < min(k, available):  # the index was not asked, or did not reach enough of what is left
            rows = np.setdiff1d(left.numpy(), dropped, assume_unique=True)
        some = chosen if chosen is not None and len(rows) == len(left) else items[torch.from_numpy(rows)]
        exact = some @ vectors[b]
        best = torch.topk(exact, min(k, len(rows)))
        found[b, : len(best.values)] = rows[best.indices.numpy()]
        scores[b, : len(best.values)] = best.values.numpy()
    return found, scores


def set_width(index: Any, search_width: int) -> None:
    """Let a faiss index look at so many candidates, or into so many clusters, from now on."""
    import faiss

    core = faiss.downcast_index(index.index)
    if hasattr(core, "hnsw"):
        core.hnsw.efSearch = search_width
    elif hasattr(core, "nprobe"):
        core.nprobe = search_width
