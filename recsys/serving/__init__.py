"""Answers of a bundle where others read them: a cache of lists."""
