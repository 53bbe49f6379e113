"""How fast the server is beside nginx that serves the same bytes: `python -m tests.benchmarks`.

Every process is local and pinned: the server, and nginx in its turn, to the first core; the load generator and the
upstream to the second. Read the ratios of one run; absolute rates belong to one machine at one hour. Nothing here
is asserted: what must never change is counted in the tests. Linux alone: memory and computing time come from /proc.
"""
