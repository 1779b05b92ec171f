"""How fast zoracle is beside the black box that it queries. Run by ``python -m benchmarks``; see docs/benchmarks.md."""
