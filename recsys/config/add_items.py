"""Configuration of ``recsys add-items``."""

from dataclasses import dataclass

from omegaconf import MISSING


@dataclass
class AddItemsConfig:
    """``add-items``: products that a bundle does not know yet, without training."""

    bundle: str = MISSING  # folder, or models:/NAME/VERSION, which gets a new version of NAME
    items: str = MISSING  # file (.parquet, .csv) with item_id and columns of the bundle's catalogue
    output: str | None = None  # folder of the new bundle, which must not be there yet; null: bundle in run_dir
    tracking_uri: str | None = None  # of the server with the registered models; null: MLflow's default store
    tracking_experiment: str = "recsys"  # MLflow's, for the run that registers the new version
    run_dir: str = "${hydra:runtime.output_dir}"  # everything a run writes
