"""What the two towers read, and how large they are."""

from dataclasses import dataclass

from recsys.models.embeddings import FeatureInput


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
    """Sizes and switches; the fields of the same name in the model config say what they do."""

    width: int
    code_width: int
    hidden: int
    heads: int
    dropout: float
    id_dropout: float
    user_id_dropout: float
    history_dropout: float
    context_dropout: float
    use_ids: bool
    use_content: bool
    factor_width: int
    factor_weight: float
    factor_confidence: float
    factor_decay: float
    sparse_rows: int = 16384  # tables with at least so many rows get sparse gradients
