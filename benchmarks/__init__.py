"""Speed against plain references; `make bench` runs all of it and writes benchmarks/results."""
