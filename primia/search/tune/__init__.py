"""The search itself, on Ray Tune: trials, searchers, schedulers, limits."""
