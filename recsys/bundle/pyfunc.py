"""``mlflow.pyfunc``'s door to a bundle: a frame of raw ids in, a frame of recommendations out. Imports no MLflow."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsys.bundle.reader import Bundle

if TYPE_CHECKING:
    import pandas as pd


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
            model_input: Columns ``user_id``; optionally ``history``, a list of item ids, oldest first, that the
                bundle does not know of yet; optionally ``items``, a list of what the request of a touchpoint
                brings; optionally ``k``.
            params: ``k`` for rows without one (20, or what the touchpoint says), ``exclude_seen`` (false),
                ``touchpoint``, one of the bundle's.

        Returns:
            ``user_id, item_id, rank, score``, rank 1 first, in the order of the requests.

        Raises:
            BundleError: A column is missing or an id has the wrong type.
        """
        import pandas as pd

        given = params or {}
        users = model_input["user_id"].tolist() if "user_id" in model_input else [None] * len(model_input)
        histories = [_listed(h) for h in model_input["history"]] if "history" in model_input else None
        items = [_listed(i) for i in model_input["items"]] if "items" in model_input else None
        touchpoint = given.get("touchpoint") or None
        usual = self.bundle.touchpoints.profile(touchpoint, None).k
        ks = [int(given.get("k", usual))] * len(users)
        if "k" in model_input:
            ks = [default if pd.isna(k) else int(k) for k, default in zip(model_input["k"], ks, strict=True)]
        seen = bool(given.get("exclude_seen", False))
        answer = self.bundle.recommend(
            users, ks, histories=histories, exclude_seen=seen, touchpoint=touchpoint, items=items
        )
        return pd.DataFrame({name: answer[name].to_list() for name in answer.columns})


def _listed(value: Any) -> list[Any]:
    """Return a cell that holds a list, an array or nothing as a list."""
    return list(value) if hasattr(value, "__len__") else []
