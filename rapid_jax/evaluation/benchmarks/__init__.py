"""Benchmarks: one reader a file, all of the form that base.py describes. Their data is read from the user's files."""

BENCHMARKS = ("archive", "dialogue", "infinitebench", "longbench_v2", "reference", "specbench")
