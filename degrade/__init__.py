"""Makes low-quality faces from clean ones; every result can be made again bit for bit from its preset and seed."""
