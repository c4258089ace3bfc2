"""``mlflow.pyfunc``'s door to a bundle: a frame of raw ids in, a frame of recommendations out. Imports no MLflow."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsys.bundle.reader import Bundle
from recsys.errors import BundleError

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("user_id", "history", "history_types", "items", "k")
"""What a request may bring."""
EXACT_FLOAT = 2**53
"""From here on a float is no longer one whole number alone."""


def _load_pyfunc(path: str) -> "Recommendations":
    """Load the model; MLflow calls this by name with the folder of the bundle."""
    return Recommendations(Bundle.load(Path(path)))


class Recommendations:
    """Top k for users, optionally with what they did since the bundle was made.

    Args:
        bundle: The loaded bundle.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    def predict(self, model_input: "pd.DataFrame", params: dict[str, Any] | None = None) -> "pd.DataFrame":
        """Answer one request a row.

        Args:
            model_input: One or more of the columns ``user_id``, missing for a visitor nobody knows; ``history``, a
                list of item ids, oldest first, that the bundle does not know of yet; ``history_types``, the event
                types of these, such as view, where they are not all purchases; ``items``, a list of what the request
                of a touchpoint brings; ``k``.
            params: ``k`` for rows without one (0: 20, or what the touchpoint says), ``exclude_seen`` (false),
                ``touchpoint``, one of the bundle's.

        Returns:
            ``user_id, item_id, rank, score``, rank 1 first, in the order of the requests.

        Raises:
            BundleError: No column is one of these, or an id has the wrong type.
        """
        import pandas as pd

        if not set(COLUMNS) & set(model_input.columns):
            found = ", ".join(map(str, model_input.columns)) or "none"
            raise BundleError(f"columns: {found}; give one or more of {', '.join(COLUMNS)}; user_id may be null.")
        given = params or {}
        users = _plain(model_input["user_id"]) if "user_id" in model_input else [None] * len(model_input)
        histories: list[list[Any]] | None = None
        if "history" in model_input:
            histories = [_listed(h) for h in model_input["history"]]
            if "history_types" in model_input:
                of_each = (_listed(t) for t in model_input["history_types"])
                histories = [_typed(items, types) for items, types in zip(histories, of_each, strict=True)]
        items = [_listed(i) for i in model_input["items"]] if "items" in model_input else None
        touchpoint = given.get("touchpoint") or None
        usual = given.get("k") or self.bundle.touchpoints.profile(touchpoint, None).k
        own = _plain(model_input["k"]) if "k" in model_input else [None] * len(users)
        ks = [usual if k is None else k for k in own]
        seen = bool(given.get("exclude_seen", False))
        answer = self.bundle.recommend(
            users, ks, histories=histories, exclude_seen=seen, touchpoint=touchpoint, items=items
        )
        kind = object if answer["user_id"].null_count() else None  # beside a null pandas would make ids floats
        who = pd.Series(answer["user_id"].to_list(), dtype=kind)
        return pd.DataFrame({name: answer[name].to_list() for name in answer.columns} | {"user_id": who})


def _plain(column: "pd.Series[Any]") -> list[Any]:
    """Return values, None for a missing one; whole numbers, which pandas makes floats beside it, are whole again."""
    values = column.astype(object).where(column.notna(), None).tolist()
    return [int(v) if isinstance(v, float) and v.is_integer() and abs(v) < EXACT_FLOAT else v for v in values]


def _typed(items: list[Any], types: list[Any]) -> list[Any]:
    """Return a history of events with their types; without types as it is.

    Raises:
        BundleError: There are not as many types as events.
    """
    if types and len(types) != len(items):
        raise BundleError(f"history_types: {len(types)} given for {len(items)} events of history; give one for each.")
    return [(item, None, kind) for item, kind in zip(items, types, strict=True)] if types else items


def _listed(value: Any) -> list[Any]:
    """Return a cell that holds a list, an array or nothing as a list.

    Raises:
        BundleError: It holds text, which is no list of letters.
    """
    if isinstance(value, str | bytes):
        raise BundleError(f"{value!r} stands where a list of items belongs; put it into one: [{value!r}].")
    return list(value) if hasattr(value, "__len__") else []
