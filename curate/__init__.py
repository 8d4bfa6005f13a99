"""Makes a dataset from photos: faces, people, splits and reference pairs.

The ledger records the result of every stage.
"""
