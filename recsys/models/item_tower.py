"""The item tower of the retriever, and the encoder of items that it shares with the user tower."""

from typing import Dict, Tuple

import torch
from torch import Tensor, nn

from recsys.features import OOV_ID, PAD_ID
from recsys.models.dropout import Dropout
from recsys.models.embeddings import FeatureSum, IdEmbedding, NumericEmbedding, unit
from recsys.models.fold_in import FoldIn
from recsys.models.tower_shape import TowerInputs, TowerShape


class KnownIds(nn.Module):
    """Decides which ids a model gets to see; the others become PAD_ID, whose vector is zero.

    An unseen id says nothing, so it adds nothing. In training a share of the ids is treated as unseen, so that
    attributes carry users and items without a known id (Volkovs et al. 2017). A content-only model sees none, ever.
    """

    def __init__(self, use_ids: bool, hidden_share: float) -> None:
        super().__init__()
        self.use_ids = use_ids
        self.hidden_share = hidden_share
        self.oov = OOV_ID
        self.pad = PAD_ID

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids int64 ``[n]`` to ids ``[n]``."""
        if not self.use_ids:
            return torch.full_like(ids, self.pad)
        hidden = ids <= self.oov
        if self.training and self.hidden_share > 0.0:
            hidden = hidden | (torch.rand(ids.size(0), device=ids.device) < self.hidden_share)
        return ids.masked_fill(hidden, self.pad)


class ItemEncoder(nn.Module):
    """What an item is, whatever the date: its code and its taste vector."""

    def __init__(self, inputs: TowerInputs, shape: TowerShape) -> None:
        super().__init__()
        self.use_content = shape.use_content and len(inputs.item) > 0
        self.known = KnownIds(shape.use_ids, shape.id_dropout if self.use_content else 0.0)
        rows = inputs.item_rows if shape.use_ids else OOV_ID + 1
        sparse = rows >= shape.sparse_rows
        self.code = IdEmbedding(rows, shape.code_width, shape.code_width**-0.5, sparse)
        self.id_embedding = IdEmbedding(rows, shape.width, shape.width**-0.5, sparse)
        self.width = shape.width
        # One gather an attribute serves both its own direction in the taste space and the hidden layer.
        attributes = inputs.item if shape.use_content else ()
        self.content = FeatureSum(attributes, shape.width + shape.hidden, shape.sparse_rows)
        self.project = nn.Sequential(nn.ReLU(), Dropout(shape.dropout), nn.Linear(shape.hidden, shape.width))

    def forward(self, features: Dict[str, Tensor], prefix: str) -> Tuple[Tensor, Tensor]:
        """Encode the n items whose features are ``prefix + name`` -> ``[n]`` or ``[n, slots]``.

        Returns:
            Unit codes ``[n, C]``, zero for an unknown item, and taste vectors ``[n, D]``.
        """
        ids = self.known(features[prefix + "item_id"])
        taste = self.id_embedding(ids)
        if self.use_content:
            content = self.content(features, prefix)
            taste = taste + content[:, : self.width] + self.project(content[:, self.width :])
        return unit(self.code(ids)), taste


class ItemTower(nn.Module):
    """An item as a candidate as of a cut."""

    def __init__(self, encoder: ItemEncoder, fold_in: FoldIn, inputs: TowerInputs, shape: TowerShape) -> None:
        super().__init__()
        self.encoder = encoder
        self.fold_in = fold_in
        self.known = KnownIds(shape.use_ids, 0.0)
        rows = inputs.item_rows if shape.use_ids else OOV_ID + 1
        self.prior = IdEmbedding(rows, 1, 0.0, rows >= shape.sparse_rows)
        # About the middle and spread of these logarithms in a year of baskets; exact values do not matter.
        self.popularity = NumericEmbedding(2.0, 1.5, shape.width + 1)
        self.age = NumericEmbedding(4.0, 1.0, shape.width + 1)
        for part in (self.popularity, self.age):
            nn.init.zeros_(part.direction)

    def forward(self, features: Dict[str, Tensor]) -> Tensor:
        """Embed n candidates.

        Args:
            features: Item features, name -> ``[n]`` or ``[n, slots]``, and ``popularity`` and ``age``,
                float32 ``[n]``, as :meth:`recsys.data.asof.ItemClock.state` makes them.

        Returns:
            ``[n, C + D + 1 + K]``.
        """
        code, taste = self.encoder(features, "")
        ids = features["item_id"]
        trained = self.candidates(code, taste, ids, features["popularity"], features["age"])
        return torch.cat([trained, self.fold_in.items(ids)], 1)

    def candidates(self, code: Tensor, taste: Tensor, ids: Tensor, popularity: Tensor, age: Tensor) -> Tensor:
        """Add prior and state as of the cut to codes ``[n, C]`` and tastes ``[n, D]``; returns ``[n, C + D + 1]``.

        It is what the loss sees of :meth:`forward`.
        """
        state = self.popularity(popularity) + self.age(age.log1p())
        prior = self.prior(self.known(ids)) + state[:, -1:]
        return torch.cat([code, unit(taste + state[:, :-1]), prior], 1)

    @torch.no_grad()
    def start_from_popularity(self, ids: Tensor, buyers: Tensor) -> None:
        """Set the prior of the items ``ids``, int64 ``[n]``, to the log of their buyers, above that of one with none.

        Zero is what the tower gives an item that nobody bought yet.
        """
        known = ids > OOV_ID
        self.prior.table.weight[ids[known], 0] = (2.0 * buyers[known].float() + 1.0).log()
