"""Import the test sets that others published as benchmarks, without a change to their files."""
