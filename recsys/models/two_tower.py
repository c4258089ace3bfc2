"""The two-tower retriever: users and items become vectors whose inner product says how well they fit.

Covington et al. 2016 (retrieval from histories), Yi et al. 2019 (two towers, sampled softmax).

::

    history ──► item encoder ──► attention pools ─┐
    user id, attributes, context ─────────────────┴─► user tower ─► query     [B, D] ┐
                                                                                     ├─ inner product
    catalogue ─► item encoder ─► + popularity, age ─► item tower ─► candidate [N, D] ┘

The towers share the item encoder, so an item of the history is near itself: what a household buys again
is found without a parameter for the pair, and an item nobody has bought yet is found by its attributes.
Both outputs have length 1; the loss and the index see the same inner product.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Dict, List

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsys.features import OOV_ID, PAD_ID
from recsys.models.embeddings import FeatureInput, FeatureSum, IdEmbedding, NumericEmbedding, unit

AGE_BUCKETS = 16
REPEAT_BUCKETS = 6


@dataclass(frozen=True)
class TowerInputs:
    """What the towers read.

    Attributes:
        item_rows: Rows of the item id table (its vocabulary and the two reserved ids).
        user_rows: Rows of the user id table.
        item: Item attributes.
        user: User attributes and the context of the moment.
    """

    item_rows: int
    user_rows: int
    item: tuple[FeatureInput, ...] = ()
    user: tuple[FeatureInput, ...] = ()


@dataclass(frozen=True)
class TowerShape:
    """Sizes and switches; the fields of the same name in the model config, with their defaults there."""

    width: int = 64
    hidden: int = 128
    heads: int = 4
    dropout: float = 0.1
    id_dropout: float = 0.1
    context_dropout: float = 0.5
    use_ids: bool = True
    use_content: bool = True
    sparse_rows: int = 16384  # tables with at least so many rows get sparse gradients; 0 rows: none do


class KnownIds(nn.Module):
    """Decides which ids a model gets to see; the others become OOV_ID, whose row learns to stand for the unseen.

    In training a share of the ids is hidden, so that content carries users and items without an id
    (dropout for cold start, Volkovs et al. 2017). A content-only model sees none, ever.
    """

    def __init__(self, use_ids: bool, hidden_share: float) -> None:
        super().__init__()
        self.use_ids = use_ids
        self.hidden_share = hidden_share
        self.oov = OOV_ID

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids int64 ``[n]`` to ids ``[n]``; padding stays padding."""
        if not self.use_ids:
            return ids.clamp(max=self.oov)
        if not self.training or self.hidden_share <= 0.0:
            return ids
        hidden = torch.rand(ids.size(0), device=ids.device) < self.hidden_share
        return ids.masked_fill(hidden & (ids > self.oov), self.oov)


class ItemEncoder(nn.Module):
    """What an item is, whatever the date: its id and its attributes."""

    def __init__(self, inputs: TowerInputs, shape: TowerShape) -> None:
        super().__init__()
        self.use_content = shape.use_content and len(inputs.item) > 0
        self.known = KnownIds(shape.use_ids, shape.id_dropout if self.use_content else 0.0)
        rows = inputs.item_rows if shape.use_ids else OOV_ID + 1
        self.id_embedding = IdEmbedding(rows, shape.width, shape.width**-0.5, rows >= shape.sparse_rows)
        self.content = FeatureSum(inputs.item if shape.use_content else (), shape.hidden, shape.sparse_rows)
        self.project = nn.Sequential(nn.ReLU(), nn.Dropout(shape.dropout), nn.Linear(shape.hidden, shape.width))

    def forward(self, features: Dict[str, Tensor], prefix: str) -> Tensor:
        """Encode the n items whose features are ``prefix + name`` -> ``[n]`` or ``[n, slots]``.

        Returns:
            ``[n, D]``, not normalised.
        """
        vectors = self.id_embedding(self.known(features[prefix + "item_id"]))
        if self.use_content:
            vectors = vectors + self.project(self.content(features, prefix))
        return vectors


class ItemTower(nn.Module):
    """An item as a candidate as of a cut: what it is, how popular it is and how long it has been sold."""

    def __init__(self, encoder: ItemEncoder, width: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.popularity = NumericEmbedding(0.0, 1.0, width)
        self.age = NumericEmbedding(4.0, 1.0, width)
        for part in (self.popularity, self.age):
            nn.init.zeros_(part.direction)

    def forward(self, features: Dict[str, Tensor]) -> Tensor:
        """Embed n candidates.

        Args:
            features: Item features, name -> ``[n]`` or ``[n, slots]``, and ``popularity`` and ``age``,
                float32 ``[n]``, as :func:`recsys.data.asof.item_state` makes them.

        Returns:
            Unit vectors ``[n, D]``.
        """
        return self.candidates(self.encoder(features, ""), features["popularity"], features["age"])

    def candidates(self, encoded: Tensor, popularity: Tensor, age: Tensor) -> Tensor:
        """Add the state as of the cut to encoded items ``[n, D]``; returns unit vectors ``[n, D]``."""
        return unit(encoded + self.popularity(popularity) + self.age(age.log1p()))


class HistoryAttention(nn.Module):
    """Pools a history with H learned mixtures of recency, repetition and what the item is.

    The weight of an event is a softmax over the history of ``item score + recency bias + repeat bias``,
    each with H heads; the heads start from long memory (0) to short memory (H - 1).
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        decay = torch.linspace(0, 1, AGE_BUCKETS)[:, None] * torch.linspace(0, 4, heads)
        self.recency = nn.Parameter(-decay)
        self.repetition = nn.Parameter(torch.zeros(REPEAT_BUCKETS, heads))
        self.item_score = nn.Linear(width, heads)
        nn.init.zeros_(self.item_score.weight)

    def forward(self, vectors: Tensor, age: Tensor, repeats: Tensor, visible: Tensor) -> Tensor:
        """Pool the histories of S moments that share a window of W events.

        Args:
            vectors: Encoded items of the windows, ``[G, W, D]``.
            age: Days from event to moment, float32 ``[G, S, W]``.
            repeats: Earlier events of the same user and item, int64 ``[G, W]``.
            visible: Which events are in the moment's history, bool ``[G, S, W]``.

        Returns:
            ``[G, S, H, D]``; zero where nothing is visible.
        """
        bucket = ((age.clamp(min=0.0) + 1.0).log2() * 1.8).long().clamp(max=15)
        logits = F.embedding(bucket, self.recency)  # [G, S, W, H]
        per_event = self.item_score(vectors) + F.embedding(repeats.clamp(max=5), self.repetition)
        logits = (logits + per_event.unsqueeze(1)).float()
        logits = logits.masked_fill(~visible.unsqueeze(3), -1e9)
        weights = logits.softmax(2) * visible.unsqueeze(3)  # the product empties what has no history
        blocks, slots, events = visible.shape
        flat = weights.to(vectors.dtype).transpose(2, 3).reshape(blocks, slots * self.heads, events)
        return torch.bmm(flat, vectors).view(blocks, slots, self.heads, vectors.size(2))


class UserTower(nn.Module):
    """A user at a moment: what they did, who they are, and when and where they ask."""

    def __init__(self, encoder: ItemEncoder, inputs: TowerInputs, shape: TowerShape, context: Sequence[str]) -> None:
        super().__init__()
        width, hidden = shape.width, shape.hidden
        self.encoder = encoder
        self.use_content = shape.use_content and len(inputs.user) > 0
        self.known = KnownIds(shape.use_ids, shape.id_dropout)
        self.pad = PAD_ID
        self.context_dropout = shape.context_dropout
        self.item_names: List[str] = ["item_id"] + (encoder.content.names if encoder.use_content else [])
        self.context_names: List[str] = list(context)
        rows = inputs.user_rows if shape.use_ids else OOV_ID + 1
        self.id_embedding = IdEmbedding(rows, width, 0.1 * width**-0.5, rows >= shape.sparse_rows)
        self.content = FeatureSum(inputs.user if shape.use_content else (), hidden, shape.sparse_rows)
        self.attention = HistoryAttention(width, shape.heads)
        self.mixture = nn.Parameter(torch.full((shape.heads, 1), 1.0 / shape.heads))
        self.pooled = nn.Linear((shape.heads + 1) * width + 1, hidden)
        self.output = nn.Sequential(nn.ReLU(), nn.Dropout(shape.dropout), nn.Linear(hidden, width))

    def forward(self, features: Dict[str, Tensor]) -> Tensor:
        """Embed B users.

        Args:
            features: User and context features, name -> ``[B]`` or ``[B, slots]``; for each item feature
                ``history/NAME`` ``[B, L]`` or ``[B, L, slots]``; ``history/age`` days before the request, float32
                ``[B, L]``; ``history/repeats`` int64 ``[B, L]``. Where ``history/item_id`` is PAD_ID there is no
                event. L is any number from 1.

        Returns:
            Unit vectors ``[B, D]``.
        """
        flat: Dict[str, Tensor] = {}
        for name in self.item_names:
            flat["history/" + name] = features["history/" + name].flatten(0, 1)
        visible = features["history/item_id"] != self.pad
        vectors = self.encoder(flat, "history/").view(visible.size(0), visible.size(1), -1)
        age, repeats = features["history/age"].unsqueeze(1), features["history/repeats"]
        pools = self.attention(vectors, age, repeats, visible.unsqueeze(1)).squeeze(1)
        return self.query(features, pools, visible.sum(1))

    def query(self, features: Dict[str, Tensor], pools: Tensor, length: Tensor) -> Tensor:
        """Combine pooled histories ``[B, H, D]`` of ``length`` events, int64 ``[B]``, with user and context features.

        Returns:
            Unit vectors ``[B, D]``.
        """
        user = self.id_embedding(self.known(features["user_id"]))
        size = length.to(pools.dtype).log1p().unsqueeze(1) / 6.0
        x = self.pooled(torch.cat([pools.flatten(1), user, size], 1))
        if self.use_content:
            x = x + self.content(self._with_context_hidden(features), "")
        return unit(self.output(x) + user + (pools * self.mixture).sum(1))

    def _with_context_hidden(self, features: Dict[str, Tensor]) -> Dict[str, Tensor]:
        """In training, hide the whole context of a share of the moments: a batch job has none at serving time."""
        if not self.training or self.context_dropout <= 0.0 or len(self.context_names) == 0:
            return features
        out: Dict[str, Tensor] = {}
        for name, values in features.items():
            out[name] = values  # noqa: PERF403 - TorchScript knows no comprehension over pairs
        hidden = torch.rand(features["user_id"].size(0), device=features["user_id"].device) < self.context_dropout
        for name in self.context_names:
            values = out[name]
            mask = hidden if values.dim() == 1 else hidden.unsqueeze(1)
            if values.dtype == torch.int64:
                out[name] = values.masked_fill(mask, self.pad)
            else:
                out[name] = values.masked_fill(mask, float("nan"))
        return out


class TwoTower(nn.Module):
    """Both towers, the encoder they share, and the temperature of the training loss.

    Attributes:
        log_temperature: Learned; its exponential is kept within the bounds.
    """

    def __init__(
        self,
        inputs: TowerInputs,
        shape: TowerShape,
        context: Sequence[str] = (),
        temperature: float = 0.07,
        bounds: Sequence[float] = (0.02, 1.0),
    ) -> None:
        super().__init__()
        self.encoder = ItemEncoder(inputs, shape)
        self.item_tower = ItemTower(self.encoder, shape.width)
        self.user_tower = UserTower(self.encoder, inputs, shape, context)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))
        self.bounds = (math.log(bounds[0]), math.log(bounds[1]))

    @property
    def temperature(self) -> Tensor:
        """The bounded temperature, scalar."""
        return self.log_temperature.clamp(*self.bounds).exp()
