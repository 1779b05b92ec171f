"""The solver wing: everything that answers ``init``, ``ask`` and ``tell``."""
