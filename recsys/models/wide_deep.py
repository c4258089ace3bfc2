"""The ranker of the second stage: memorisation and generalisation in one sum (Wide & Deep, Cheng et al. 2016).

::

    ids, crosses of ids, bins of numbers ─── one weight each ─────────────────┐
                                                                              +─► logit of each task
    numbers ─► boosted trees, grown before (optional) ────────────────────────┤
    ids ─► embeddings ─┬────────────────────────────────────────────┐         │
    history ───────────┴─ attention over the candidate (optional) ──┼─ MLP ───┘
    numbers ─► normal scores, logarithms, flags of what is missing ─┘

It reads raw pair features: what numbers become is part of the model. :meth:`WideDeep.encode` does everything that is
not learned, so that a training set can be encoded once; :meth:`WideDeep.score` is what a step runs. The trees are no
part of it: who has learned a training set by heart leaves nothing of it to learn for others. They join a fitted model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Dict, List, cast

import torch
from torch import Tensor, nn

from recsys.errors import ConfigError, did_you_mean
from recsys.features import OOV_ID, PAD_ID
from recsys.models.attention import CandidateAttention
from recsys.models.dropout import Dropout
from recsys.models.embeddings import IdEmbedding, brought_to
from recsys.models.forest import Forest
from recsys.models.transforms import NumericFit, NumericTransform
from recsys.models.wide import Cross, IdInput, WidePart

NORMS = ("layer", "batch", "none")
SPREAD = 0.1
"""Standard deviation of a fresh embedding."""


@dataclass(frozen=True)
class RankerInputs:
    """What the ranker reads of a pair of user and candidate.

    Attributes:
        ids: Categorical features of user, item, pair and context.
        numerics: Numeric features, as fitted on training pairs.
        crosses: Of the categorical features with one id a pair.
        history: Names of categorical features of the candidate that its user's history has too, the first with one
            id a pair; empty for a ranker without attention.
    """

    ids: tuple[IdInput, ...] = ()
    numerics: tuple[NumericFit, ...] = ()
    crosses: tuple[Cross, ...] = ()
    history: tuple[str, ...] = ()


@dataclass(frozen=True)
class RankerShape:
    """Sizes and switches.

    Attributes:
        width: Of an embedding, unless its feature has a width of its own.
        hidden: Widths of the hidden layers.
        dropout: After each hidden layer.
        id_dropout: Share of the ids that the deep part does not get to see in training, so that it also learns to
            do without (Volkovs et al. 2017).
        norm: Before each activation: ``layer``, ``batch`` or ``none``.
        forms: What numbers look like to the deep part; :class:`recsys.models.transforms.NumericTransform`.
        attention: H of :class:`recsys.models.attention.CandidateAttention`.
        use_wide: False for a deep-only model.
        use_deep: False for a wide-only model.
        sparse_rows: Tables of at least so many rows get sparse gradients.
    """

    width: int
    hidden: tuple[int, ...]
    dropout: float
    id_dropout: float
    norm: str
    forms: tuple[str, ...]
    attention: int
    use_wide: bool
    use_deep: bool
    sparse_rows: int = 16384


class DeepPart(nn.Module):
    """Embeddings, numbers and, if asked for, the history as the candidate sees it, through an MLP."""

    names: List[str]  # TorchScript cannot infer the type of an empty list
    in_history: List[bool]

    def __init__(self, inputs: RankerInputs, numeric_width: int, shape: RankerShape, outputs: int) -> None:
        super().__init__()
        self.pad, self.oov = PAD_ID, OOV_ID
        self.id_dropout = shape.id_dropout
        self.names = [i.name for i in inputs.ids]
        self.in_history = [i.name in inputs.history for i in inputs.ids]
        widths = [i.width or shape.width for i in inputs.ids]
        self.embeddings = nn.ModuleList(
            IdEmbedding(i.rows, width, SPREAD, i.rows >= shape.sparse_rows)
            for i, width in zip(inputs.ids, widths, strict=True)
        )
        self.use_history = len(inputs.history) > 0
        self.mask_name = "history/" + (inputs.history[0] if inputs.history else "")
        shared = sum(width for width, also in zip(widths, self.in_history, strict=True) if also)
        self.attention = CandidateAttention(max(shared, 1), shape.attention if self.use_history else 1)
        layers: list[nn.Module] = []
        last = sum(widths) + numeric_width + (shared + 1 if self.use_history else 0)
        for width in shape.hidden:
            layers += [nn.Linear(last, width), _norm(shape.norm, width), nn.ReLU(), Dropout(shape.dropout)]
            last = width
        output = nn.Linear(last, outputs, bias=False)
        nn.init.zeros_(output.weight)  # the first prediction is the base rate
        self.mlp = nn.Sequential(*layers, output)

    def forward(self, features: Dict[str, Tensor], numbers: Tensor) -> Tensor:
        """Score P pairs: ``features`` as :meth:`WideDeep.forward` takes them, ``numbers [P, N]``; gives ``[P, T]``."""
        parts: List[Tensor] = [numbers]
        candidate: List[Tensor] = []
        history: List[Tensor] = []
        for i, embedding in enumerate(self.embeddings):
            name = self.names[i]
            vectors = embedding(self.seen(features[name]))
            parts.append(vectors)
            if self.in_history[i]:
                candidate.append(vectors)
                past = features["history/" + name]
                of_events = embedding(past.masked_fill(past <= self.oov, self.pad).flatten(0, 1))
                history.append(of_events.view(past.size(0), past.size(1), of_events.size(1)))
        if self.use_history:
            visible = features[self.mask_name] != self.pad
            events = torch.cat(history, 2), features["history/age"], visible, features["request"]
            parts.append(self.attention(torch.cat(candidate, 1), events[0], events[1], events[2], events[3]))
        return self.mlp(torch.cat([part.t() for part in parts], 0).t())  # as the numbers come: by rows, not columns

    def seen(self, ids: Tensor) -> Tensor:
        """Replace unseen ids, and in training some others, by PAD_ID, whose vector is zero; same shape."""
        hidden = ids <= self.oov
        if self.training and self.id_dropout > 0.0:
            hidden = hidden | (torch.rand(ids.shape, device=ids.device) < self.id_dropout)
        return ids.masked_fill(hidden, self.pad)


class WideDeep(nn.Module):
    """Wide part, deep part and a bias, added.

    Args:
        inputs: What the model reads.
        shape: Sizes and switches.
        base_rates: Share of positives of each of the T tasks among the pairs that the model shall describe; an
            unfitted model predicts it.

    Raises:
        ConfigError: No input, both parts switched off, an unknown norm or form, a name that no feature has or two do.
    """

    base_rates: Tensor
    tree_share: Tensor

    def __init__(self, inputs: RankerInputs, shape: RankerShape, base_rates: Sequence[float]) -> None:
        super().__init__()
        _check(inputs, shape)
        self.use_wide, self.use_deep = shape.use_wide, shape.use_deep
        self.has_numerics = len(inputs.numerics) > 0
        self.first_name = inputs.ids[0].name if inputs.ids else inputs.numerics[0].name
        tasks = len(base_rates)
        self.numeric = NumericTransform(inputs.numerics, shape.forms)
        self.wide = WidePart(
            inputs.ids if shape.use_wide else (),
            inputs.crosses if shape.use_wide else (),
            self.numeric.names if shape.use_wide else (),
            self.numeric.bin_counts if shape.use_wide else (),
            tasks,
            shape.sparse_rows,
        )
        if shape.use_deep:
            self.deep = DeepPart(inputs, self.numeric.width, shape, tasks)
        else:  # TorchScript wants one all the same
            self.deep = DeepPart(RankerInputs(), 1, replace(shape, hidden=()), tasks)
        rates = torch.tensor(list(base_rates), dtype=torch.float32)
        self.register_buffer("base_rates", rates)
        self.bias = nn.Parameter(torch.logit(rates, eps=1e-6))
        self.forest, self.has_trees = Forest(), False
        self.register_buffer("tree_share", torch.zeros(()))

    def forward(self, features: Dict[str, Tensor]) -> Tensor:
        """Score P pairs.

        Args:
            features: Categorical: name -> ids, int64 ``[P]`` or ``[P, slots]``. Numeric: name -> raw numbers
                ``[P]``, NaN where missing. With attention, for R requests: ``request`` int64 ``[P]`` in [0, R),
                ``history/NAME`` int64 ``[R, L]`` or ``[R, L, slots]``, ``history/age`` days float32 ``[R, L]``.

        Returns:
            Logits, float32 ``[P]`` for one task, else ``[P, T]``.
        """
        logits = self.score(self.encode(features))
        if self.has_trees:
            trees = self.tree_share * self.forest(features)
            if logits.dim() == 1:
                logits = logits + trees
            else:
                logits = torch.cat([logits[:, :1] + trees.unsqueeze(1), logits[:, 1:]], 1)
        return logits

    def add_trees(self, forest: Forest, share: float) -> None:
        """Add the score of trees, times their share, to the logit of the first task."""
        self.forest, self.has_trees = forest.to(self.bias.device), len(forest.names) > 0
        self.tree_share.fill_(share)

    def encode(self, features: Dict[str, Tensor]) -> Dict[str, Tensor]:
        """Do what is not learned: returns what :meth:`score` reads, rows ``[P, ...]`` that may be kept and sliced."""
        out: Dict[str, Tensor] = {}
        for name, values in features.items():
            out[name] = values  # noqa: PERF403 - TorchScript knows no comprehension over pairs
        pairs = features[self.first_name].size(0)
        bins = torch.zeros(pairs, 0, dtype=torch.int32, device=self.bias.device)
        if self.has_numerics:
            bins, out["numeric/position"], out["numeric/log"] = self.numeric(features)
        if self.use_wide:  # in small integers: a training set has millions of pairs
            out["wide/rows"] = self.wide.encode(features, pairs)
            out["wide/bins"] = bins.short()
        return out

    def score(self, encoded: Dict[str, Tensor]) -> Tensor:
        """Score what :meth:`encode` returned; logits as :meth:`forward` returns them."""
        pairs = encoded[self.first_name].size(0)
        logits = self.bias.expand(pairs, -1)
        if self.use_wide:
            logits = logits + self.wide(encoded["wide/rows"], encoded["wide/bins"])
        if self.use_deep:
            numbers = torch.zeros(pairs, 0, device=self.bias.device)
            if self.has_numerics:
                numbers = self.numeric.deep(encoded["numeric/position"], encoded["numeric/log"])
            logits = logits + self.deep(encoded, numbers)
        logits = logits.float()
        return logits.squeeze(1) if logits.size(1) == 1 else logits

    def wide_parameters(self) -> list[Tensor]:
        """Return the weights that the wide part's optimizer moves; none for a deep-only model."""
        return [self.wide.table.weight, self.wide.bins.weight] if self.use_wide else []

    def deep_parameters(self) -> list[Tensor]:
        """Return everything else that the model uses."""
        return [self.bias, *(self.deep.parameters() if self.use_deep else ())]

    @torch.no_grad()
    def start_from(self, name: str, ids: Tensor, vectors: Tensor) -> None:
        """Start the embedding of a feature from given vectors, such as a tower's, instead of by chance.

        Wider vectors are reduced to their leading principal components and all are scaled to the spread of a fresh
        embedding, which the learning rates are made for; narrower ones leave the last columns as they are. Ids that
        have no vector keep their own start.

        Args:
            name: Of the feature.
            ids: Id of each vector, int64 ``[n]``; reserved ones are passed over.
            vectors: ``[n, W]``.

        Raises:
            ConfigError: The deep part has no such feature.
        """
        embeddings = [cast("IdEmbedding", part) for part in self.deep.embeddings]
        tables = {n: part.table.weight for n, part in zip(self.deep.names, embeddings, strict=True)}
        if name not in tables:
            raise ConfigError(f"'{name}' has no embedding to start." + did_you_mean(name, tables))
        known = ids > OOV_ID
        start = brought_to(vectors[known], tables[name].size(1), SPREAD)
        tables[name][ids[known], : start.size(1)] = start.to(tables[name])


def _norm(kind: str, width: int) -> nn.Module:
    if kind == "layer":
        return nn.LayerNorm(width)
    return nn.BatchNorm1d(width) if kind == "batch" else nn.Identity()


def _check(inputs: RankerInputs, shape: RankerShape) -> None:
    names = [i.name for i in inputs.ids] + [n.name for n in inputs.numerics]
    if not names:
        raise ConfigError("a ranker needs at least one feature.")
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise ConfigError(f"features declared twice: {', '.join(twice)}; give each its own name.")
    if not (shape.use_wide or shape.use_deep):
        raise ConfigError("use_wide and use_deep are both false: a ranker needs one of its parts.")
    if shape.norm not in NORMS:
        raise ConfigError(f"norm '{shape.norm}' is not one of {', '.join(NORMS)}." + did_you_mean(shape.norm, NORMS))
    slots = {i.name: i.slots for i in inputs.ids}
    for name in inputs.history:
        if name not in slots:
            raise ConfigError(f"history: '{name}' is not a categorical feature." + did_you_mean(name, slots))
    if inputs.history and slots[inputs.history[0]]:
        raise ConfigError(f"history: '{inputs.history[0]}' has several ids an event; name one with a single id first.")
