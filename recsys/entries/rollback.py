"""``recsys rollback``: the champion before this one serves again."""

from recsys.config.promote import RollbackConfig


def run(cfg: RollbackConfig) -> int:
    """Give the alias back to the version that held it before, and return that version.

    Raises:
        TrackingError: There is none, or the registry could not be reached.
    """
    from rich.console import Console

    from recsys.tracking.aliases import restore
    from recsys.tracking.server import connect

    connect(cfg.tracking_uri)
    left, version = restore(cfg.name, cfg.alias)
    Console().print(
        f"models:/{cfg.name}@{cfg.alias} is version {version} again, no longer version {left}",
        highlight=False,
        soft_wrap=True,
    )
    return version
