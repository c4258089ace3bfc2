"""The two-tower retriever: users and items become vectors whose inner product says how well they fit.

Covington et al. 2016 (retrieval from histories), Yi et al. 2019 (two towers, sampled softmax).

::

                    ┌─► code ───── pooled over the history ─────────► code part  [C]  what they buy again
    history ─► item encoder                                                           (memorisation)
                    └─► taste ──── pooled over the history ─┐
    user id, attributes, context ───────────────────────────┴─ MLP ─► taste part [D]  what they might like
                                                                                      (generalisation)
                                                                      1               how popular it is
    history ─► least squares ───────────────────────────────────────► factor     [K]  what others like them buy

    candidate ─► item encoder ─► code [C] | taste [D] + popularity, age as of the cut | prior [1] | factor [K]

Both towers share the item encoder. A *code* is a learned unit vector of an item and little else: the pooled codes
of a history are a sketch of how often and how lately each item was bought, and their inner product with an item's
code reads that entry of the sketch; it starts the louder, the more users take again what they took before. The *taste*
vector is made of id and attributes; the id is hidden at random, so that attributes carry what is new. The *prior*
starts as the logarithm of the item's buyers, so that the model starts from the best answer without personalisation
and learns what departs from it. The *factors* (:mod:`recsys.models.fold_in`) are fitted before, by least squares, and
not trained: they know the whole window that the towers train on, the future of each moment included, so that a loss
would come to trust them too much. They join the towers when these answer, with a weight chosen on validation.
"""

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Dict, List, Tuple

import torch
from torch import Tensor, nn

from recsys.features import OOV_ID, PAD_ID
from recsys.models.dropout import Dropout
from recsys.models.embeddings import FeatureSum, IdEmbedding, unit
from recsys.models.fold_in import FoldIn
from recsys.models.history import FAST, HistoryAttention
from recsys.models.item_tower import ItemEncoder, ItemTower, KnownIds
from recsys.models.tower_shape import TowerInputs, TowerShape

GAIN = 40.0
"""What an item that is the user's whole history gets by its code at the start, in units of the loss's logits."""
COMMON, RARE = 0.06, 0.1
"""Where repeats are at least this share of what users take, codes start with all of that gain; below it with the part
``(share / COMMON) ** 2`` of it, and never less than the part RARE."""


class UserTower(nn.Module):
    """A user at a moment: what they did, who they are, and when and where they ask."""

    item_names: List[str]  # TorchScript cannot infer the type of an empty list
    context_names: List[str]

    def __init__(
        self,
        encoder: ItemEncoder,
        fold_in: FoldIn,
        inputs: TowerInputs,
        shape: TowerShape,
        context: Sequence[str],
        temperature: float,
        bounds: Sequence[float],
    ) -> None:
        super().__init__()
        width, hidden, heads = shape.width, shape.hidden, shape.heads
        self.encoder = encoder
        self.fold_in = fold_in
        self.factor_weight = shape.factor_weight
        self.use_content = shape.use_content and len(inputs.user) > 0
        self.known = KnownIds(shape.use_ids, shape.user_id_dropout)
        self.pad = PAD_ID
        self.history_dropout = shape.history_dropout
        self.context_dropout = shape.context_dropout
        self.item_names = ["item_id"] + (encoder.content.names if encoder.use_content else [])
        self.context_names = list(context)

        self.habit = HistoryAttention(shape.code_width, [0.5])
        self.gain = nn.Parameter(torch.tensor(math.log(GAIN * temperature) / FAST))
        self.interest = HistoryAttention(width, [2.0 * h / max(heads - 1, 1) for h in range(heads)])
        self.mixture = nn.Parameter(torch.full((heads, 1), 1.0 / heads))
        rows = inputs.user_rows if shape.use_ids else OOV_ID + 1
        self.id_embedding = IdEmbedding(rows, width, 0.1 * width**-0.5, rows >= shape.sparse_rows)
        self.content = FeatureSum(inputs.user if shape.use_content else (), hidden, shape.sparse_rows)
        self.pooled = nn.Linear((heads + 1) * width + 1, hidden)
        self.output = nn.Sequential(nn.ReLU(), Dropout(shape.dropout), nn.Linear(hidden, width))

        self.fast = FAST
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))
        self.coldest, self.hottest = math.log(bounds[0]), math.log(bounds[1])

    @torch.no_grad()
    def start_from_repeats(self, share: float) -> None:
        """Turn the codes of a fresh tower down where users hardly take again what they took before.

        As loud as in a shop of groceries they would name what no one will take, and few steps do not make them quiet.

        Args:
            share: Of what users with a history take, how much stands in it, in [0, 1].
        """
        self.gain.add_(math.log(min(max((share / COMMON) ** 2, RARE), 1.0)) / self.fast)

    def forward(self, features: Dict[str, Tensor]) -> Tensor:
        """Embed B users.

        Args:
            features: User and context features, name -> ``[B]`` or ``[B, slots]``; for each item feature
                ``history/NAME`` ``[B, L]`` or ``[B, L, slots]``; ``history/age`` days before the request, float32
                ``[B, L]``; ``history/repeats`` int64 ``[B, L]``. Where ``history/item_id`` is PAD_ID there is no
                event. L is any number from 1.

        Returns:
            ``[B, C + D + 1 + K]``.
        """
        flat: Dict[str, Tensor] = {}
        for name in self.item_names:
            flat["history/" + name] = features["history/" + name].flatten(0, 1)
        visible = (features["history/item_id"] != self.pad).unsqueeze(1)
        code, taste = self.encoder(flat, "history/")
        code = code.view(visible.size(0), visible.size(2), -1)
        taste = taste.view(visible.size(0), visible.size(2), -1)
        age, repeats = features["history/age"].unsqueeze(1), features["history/repeats"]
        codes, tastes = self.pool(code, taste, self.item_scores(code, taste), age, repeats, visible)
        trained = self.query(features, codes[:, 0], tastes[:, 0], visible.sum(2)[:, 0])
        # Times the temperature, as the prior: the other parts are divided by it in the loss.
        factor = self.fold_in(features["history/item_id"], features["history/age"])
        return torch.cat([trained, factor * (self.temperature() * self.factor_weight)], 1)

    def item_scores(self, code: Tensor, taste: Tensor) -> Tensor:
        """Say what items count in a history, whatever their age: codes ``[..., C]`` and tastes to ``[..., 1 + H]``."""
        return torch.cat([self.habit.item_score(code), self.interest.item_score(taste)], -1)

    def pool(
        self, code: Tensor, taste: Tensor, scores: Tensor, age: Tensor, repeats: Tensor, visible: Tensor
    ) -> Tuple[Tensor, Tensor]:
        """Pool histories of codes ``[G, W, C]`` and tastes ``[G, W, D]``; the rest as in :class:`HistoryAttention`.

        Args:
            code: Of the windows' items.
            taste: Of these.
            scores: :meth:`item_scores` of these, ``[G, W, 1 + H]``.
            age: ``[G, S, W]``.
            repeats: ``[G, W]``.
            visible: ``[G, S, W]``.

        Returns:
            Pooled codes ``[G, S, C]`` and tastes ``[G, S, H, D]``.
        """
        codes = self.habit(code, scores[..., :1], age, repeats, visible).squeeze(2)
        if self.training and self.history_dropout > 0.0:
            visible = visible & (torch.rand(visible.shape, device=visible.device) >= self.history_dropout)
        return codes, self.interest(taste, scores[..., 1:], age, repeats, visible)

    def query(self, features: Dict[str, Tensor], codes: Tensor, tastes: Tensor, length: Tensor) -> Tensor:
        """Combine pooled codes ``[B, C]`` and tastes ``[B, H, D]`` of ``length [B]`` events with the other features.

        Returns:
            ``[B, C + D + 1]``, what the loss sees of :meth:`forward`; the last component is the temperature, so that
            the prior is not divided by it.
        """
        user = self.id_embedding(self.known(features["user_id"]))
        size = length.to(tastes.dtype).log1p().unsqueeze(1) / 6.0
        x = self.pooled(torch.cat([tastes.flatten(1), user, size], 1))
        if self.use_content:
            x = x + self.content(self._with_context_hidden(features), "")
        taste = unit(self.output(x) + user + (tastes * self.mixture).sum(1))
        popular = self.temperature().to(taste.dtype).expand(taste.size(0), 1)
        return torch.cat([codes * (self.gain * self.fast).exp(), taste, popular], 1)

    def temperature(self) -> Tensor:
        """Return the bounded temperature, scalar."""
        return self.log_temperature.clamp(self.coldest, self.hottest).exp()

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
    """Both towers and what they share: the encoder and the factors.

    Args:
        inputs: What the towers read.
        shape: Sizes and switches.
        context: Names of the context features among ``inputs.user``.
        temperature: Where the learned temperature of the loss starts.
        bounds: Between which it stays.
    """

    def __init__(
        self,
        inputs: TowerInputs,
        shape: TowerShape,
        context: Sequence[str],
        temperature: float,
        bounds: Sequence[float],
    ) -> None:
        super().__init__()
        self.encoder = ItemEncoder(inputs, shape)
        width = shape.factor_width if shape.use_ids else 0
        self.fold_in = FoldIn(inputs.item_rows, width, shape.factor_confidence, shape.factor_decay)
        self.item_tower = ItemTower(self.encoder, self.fold_in, inputs, shape)
        self.user_tower = UserTower(self.encoder, self.fold_in, inputs, shape, context, temperature, bounds)

        widths = {"code": shape.code_width, "taste": shape.width, "prior": 1, "factor": width}
        ends = list(accumulate(widths.values()))
        self.parts = {name: (end - widths[name], end) for name, end in zip(widths, ends, strict=True)}
        """Columns of a vector, from and to, by what they are."""

    @property
    def temperature(self) -> Tensor:
        """The bounded temperature, scalar."""
        return self.user_tower.temperature()

    @torch.no_grad()
    def id_tables(self) -> Dict[str, Tensor]:
        """Return what the towers have learned of single ids of users, items and their attributes.

        Of items it is what they add to the taste, their codes being a memory of single items and little else.

        Returns:
            Feature name to a copy of its embeddings, a row an id: ``[rows, D]``, of user attributes ``[rows, hidden]``.
        """
        encoder, tower = self.encoder, self.user_tower
        found: Dict[str, nn.Module] = {}
        if encoder.known.use_ids:
            found = {"item_id": encoder.id_embedding, "user_id": tower.id_embedding}
        for content in (encoder.content, tower.content):
            names = [name for name in content.names if name not in tower.context_names]
            found |= {name: content.parts[content.names.index(name)] for name in names}
        tables = {name: part.widen(part.table.weight) for name, part in found.items() if isinstance(part, IdEmbedding)}
        of_items = {"item_id", *encoder.content.names}
        return {name: (t[:, : encoder.width] if name in of_items else t).clone().cpu() for name, t in tables.items()}
