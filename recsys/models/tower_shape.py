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

    width: int = 64
    code_width: int = 64
    hidden: int = 128
    heads: int = 4
    dropout: float = 0.1
    id_dropout: float = 0.3
    user_id_dropout: float = 0.5
    history_dropout: float = 0.3
    context_dropout: float = 0.5
    use_ids: bool = True
    use_content: bool = True
    factor_width: int = 0
    factor_weight: float = 1.5
    factor_confidence: float = 0.6
    factor_decay: float = 0.5
    sparse_rows: int = 16384  # tables with at least so many rows get sparse gradients
