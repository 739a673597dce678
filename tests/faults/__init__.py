"""Causes faults around a run many times, and counts the outcomes.

    python -m tests.faults.kill_resume --kills=100     kill -9 at any moment
    python -m tests.faults.sigterm --n=25              SIGTERM and SIGINT
    python -m tests.faults.corrupt --n=200 --seed=0    damaged checkpoint files
    python -m tests.faults.disk                        full disk, limits, read-only
    python -m tests.faults.fuzz_config --n=500         random overrides
    python -m tests.faults.surroundings                clock, data, TensorBoard folder
    python -m tests.faults.soak                        20,000 steps, 200 restarts
    python -m tests.faults.figures                     all rows of RELIABILITY.md

Each command prints its seed, every draw, and one line of JSON at the end. The exit code
is 1 if a count is wrong. tests/faults/test_faults.py runs them under
`-m slow`, and one kill in the fast tests.
"""
