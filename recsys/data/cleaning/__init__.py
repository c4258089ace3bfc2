"""Cleaning: one small function a rule; :mod:`recsys.data.cleaning.rules` states their order."""
