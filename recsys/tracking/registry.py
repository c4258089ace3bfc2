"""A bundle becomes a version of a registered model that ``mlflow.pyfunc`` can load anywhere."""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from recsys.bundle.format import SAMPLE, Manifest, read_manifest
from recsys.errors import TrackingError
from recsys.export.package import write_reader_package
from recsys.export.prove import refuse_unproven
from recsys.tracking.server import bounded_http, first_line, quiet

REQUIREMENTS = ("torch", "numpy", "polars", "faiss-cpu", "mlflow")
"""All that the registered model needs beside the code it carries."""


def register_bundle(
    folder: str | Path, model_name: str, tags: Mapping[str, str] | None = None, run_id: str | None = None
) -> tuple[int, str]:
    """Log the bundle to a run and register it.

    The model carries the bundle, the code of its reader and a signature, and is loaded by
    ``mlflow.pyfunc.load_model(uri)`` or ``Bundle.load(uri)``. Nothing in it is pickled.

    Args:
        folder: Of the bundle.
        model_name: To register it under.
        tags: Of the new version.
        run_id: Of the run that it comes from; None: the one that is open.

    Returns:
        Version and URI, ``models:/NAME/VERSION``.

    Raises:
        BundleError: The folder is not a whole bundle, or its parity certificate has a failed case or none for a part.
        TrackingError: The registry refused or could not be reached.
    """
    import mlflow
    from mlflow.models import Model

    manifest = read_manifest(Path(folder))
    manifest.verify(Path(folder))
    refuse_unproven(Path(folder), manifest)
    # an upload takes its time
    with TemporaryDirectory() as scratch, _own_path(), quiet(), bounded_http(retries=3, timeout=120):
        code = write_reader_package(Path(scratch))
        try:
            if run_id is not None:
                mlflow.set_experiment(experiment_id=mlflow.get_run(run_id).info.experiment_id)
            info = Model.log(
                artifact_path=None,
                name="bundle",
                flavor=mlflow.pyfunc,
                run_id=run_id,
                loader_module="recsys.bundle.pyfunc",
                data_path=str(folder),
                code_paths=[str(code)],
                signature=_signature(manifest),
                input_example=_example(Path(folder)),
                pip_requirements=[f"{name}=={version(name).split('+')[0]}" for name in REQUIREMENTS],
                metadata={"bundle_fingerprint": manifest.fingerprint, "bundle_format": manifest.format_version},
            )
            with redirect_stderr(StringIO()):  # MLflow prints there what the job says at its end; errors it raises
                registered = mlflow.register_model(info.model_uri, model_name, tags=dict(tags or {}))
        except Exception as error:
            raise TrackingError(
                f"model '{model_name}' could not be registered at '{mlflow.get_tracking_uri()}' ({first_line(error)}). "
                f"The bundle itself is whole and lies in {folder}."
            ) from error
    number = int(registered.version)
    return number, f"models:/{model_name}/{number}"


@contextmanager
def _own_path() -> Iterator[None]:
    """Undo what MLflow adds to ``sys.path``: its copy of the reader must not stand in for this package later on."""
    before = list(sys.path)
    try:
        yield
    finally:
        sys.path[:] = before


def _example(folder: Path) -> Any:
    """Return two requests of the golden sample as the frame that the model takes."""
    import pandas as pd

    requests = json.loads((folder / SAMPLE).read_text(encoding="utf-8"))["requests"]
    known = [request for request in requests if request["user_id"] is not None]
    some = [known[0], known[-1]]
    return pd.DataFrame({key: [request[key] for request in some] for key in ("user_id", "history", "k")})


def _signature(manifest: Manifest) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec
    from mlflow.types.schema import AnyType, Array, DataType

    legal = {"int": DataType.long, "str": DataType.string}
    user, item = legal[manifest.user_id_type], legal[manifest.item_id_type]
    # any: MLflow lets no null pass as a whole number, nor a whole number as a double; the reader looks at them itself
    inputs: list[ColSpec | TensorSpec] = [
        ColSpec(AnyType(), "user_id", required=False),
        ColSpec(Array(item), "history", required=False),
        ColSpec(Array(DataType.string), "history_types", required=False),
        ColSpec(Array(item), "items", required=False),
        ColSpec(AnyType(), "k", required=False),
    ]
    outputs: list[ColSpec | TensorSpec] = [
        ColSpec(user, "user_id"),
        ColSpec(item, "item_id"),
        ColSpec(DataType.long, "rank"),
        ColSpec(DataType.float, "score"),
    ]
    params = [ParamSpec("k", DataType.long, 0), ParamSpec("exclude_seen", DataType.boolean, False)]
    params.append(ParamSpec("touchpoint", DataType.string, ""))
    return ModelSignature(Schema(inputs), Schema(outputs), ParamSchema(params))
