"""Configuration of ``recsys publish``."""

from dataclasses import dataclass

from omegaconf import MISSING


@dataclass
class PublishConfig:
    """``publish``: the lists of a bundle into Redis, for readers who have no time to ask it."""

    bundle: str = MISSING  # folder, models:/NAME/VERSION or runs:/ID/bundle
    to: str = MISSING  # redis://[user:password@]host:port/db
    name: str = "recsys"  # that all keys begin with; no ':' in it
    k: int = 20
    users: str | None = None  # null: all; a comma-separated list, or a file with a user_id column
    segment: str | None = None  # attribute of the users; its values get lists of their own
    exclude_seen: bool = False
    days: float = 7.0  # that lists live unless they are renewed
    keep_seconds: int = 60  # that the generation before lives on
    batch_size: int = 256
    tracking_uri: str | None = None
