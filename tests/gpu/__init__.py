"""What only a GPU can show; `make gpu` runs these and then `benchmarks/gpu.py`, which measures."""
