"""Makes low-quality faces from clean faces. The same preset and seed give the same face again, bit for bit."""
