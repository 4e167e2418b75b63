"""Benchmarks: ``python -m benchmarks`` measures everything and writes ``benchmarks/RESULTS.md``.

Each module ``bench_*`` has a function ``measure() -> list of Figure`` and says in its docstring what it measures.
"""
