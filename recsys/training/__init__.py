"""Lightning around the models: tasks, optimizers, the fit."""
