"""The parts of `benchmarks/step_time.py`."""
