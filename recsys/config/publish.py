"""Configuration of ``recsys publish``."""

from dataclasses import dataclass

from omegaconf import MISSING


@dataclass
class PublishConfig:
    """``publish``: the lists of a bundle into Redis, for readers who have no time to ask it."""

    bundle: str = MISSING  # folder, models:/NAME/VERSION or runs:/ID/bundle
    to: str = MISSING  # redis://[user:password@]host:port/db
    name: str = "recsys"  # that all keys begin with; no ':' in it
    k: int = 20  # items of a list
    users: str | None = None  # null: all; a comma-separated list, or a file with a user_id column
    segment: str | None = None  # attribute of the users; its values get lists of their own
    exclude_seen: bool = False  # true: leave out what the user has had
    days: float = 7.0  # that lists live unless they are renewed
    keep_seconds: int = 60  # that the generation before lives on
    batch_size: int = 256  # users answered at a time
    tracking_uri: str | None = None  # where models:/ and runs:/ are looked up; null: MLflow's default store
