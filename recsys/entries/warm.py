"""Yesterday's retriever for today's fits, from its bundle."""

from typing import TYPE_CHECKING

from recsys.config.schema import Config

if TYPE_CHECKING:
    from torch import Tensor

    from recsys.data.dataset import FittedData
    from recsys.data.encode import Encoder
    from recsys.training.warm import WarmStart


def warm_start(cfg: Config, data: "FittedData") -> "WarmStart | None":
    """Return what ``init_from`` names, in the vocabularies of ``data``; None where nothing may be taken over.

    A bundle that has seen events at or after the cut of the data would tell their future, and from one of the same cut
    there is nothing left to learn: such a fit starts cold.

    Raises:
        BundleError: It cannot be loaded, or is damaged.
        ConfigError: It has other features.
    """
    if cfg.init_from is None:
        return None
    import logging
    from datetime import datetime

    from recsys.bundle import format as part
    from recsys.bundle.format import read_manifest
    from recsys.bundle.parts import local_folder, read_tower
    from recsys.data.dataset import microseconds
    from recsys.data.encode import Encoder
    from recsys.data.log import as_time
    from recsys.training.warm import WarmStart

    with local_folder(cfg.init_from) as folder:
        manifest = read_manifest(folder)
        cut = microseconds(datetime.fromisoformat(manifest.cut))
        if cut >= data.cut:
            logging.getLogger(__name__).info(
                "init_from=%s knows the events before %s; a fit on those before %s starts without it",
                cfg.init_from, manifest.cut, as_time(data.cut).isoformat(),
            )  # fmt: skip
            return None
        parameters = {
            f"{name}.{key}": tensor
            for name, file in (("item_tower", part.ITEM_TOWER), ("user_tower", part.USER_TOWER))
            for key, tensor in read_tower(folder / file).state_dict().items()
        }
        earlier = Encoder.load(folder / part.VOCABULARIES)
    shared = ("item_tower.encoder.", "item_tower.fold_in.")  # by both towers
    parameters |= {key.removeprefix("item_tower."): t for key, t in parameters.items() if key.startswith(shared)}
    return WarmStart(cfg.init_from, cut, parameters, rows_of(cfg, earlier, data.encoder))


def rows_of(cfg: Config, earlier: "Encoder", now: "Encoder") -> "dict[str, Tensor]":
    """Return which id each id of the earlier vocabularies has now, by the name of the feature.

    Raises:
        ConfigError: The features are not the same.
    """
    from recsys.errors import ConfigError

    found = {}
    before = {f.name: f for f in earlier.spec if f.is_categorical}
    for feature in now.spec:
        if not feature.is_categorical:
            continue
        if before.get(feature.name) != feature:
            raise ConfigError(
                f"init_from={cfg.init_from}: feature '{feature.name}' was {before.get(feature.name, 'not there')} and"
                f" is {feature} now; features must be the same. Put those of the earlier data set (its features.yaml)"
                " under data.features, or leave init_from away."
            )
        found[feature.name] = earlier.ids_in(feature, now)
    return found
