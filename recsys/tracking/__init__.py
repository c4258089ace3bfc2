"""Everything that knows MLflow: runs, epoch metrics, the model registry."""
