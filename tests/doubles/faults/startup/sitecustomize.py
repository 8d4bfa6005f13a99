"""Installs the hook of tests/doubles/faults/hook.py.

Python imports this file at its start if PYTHONPATH has this folder.
"""

from tests.doubles.faults import hook

hook.install()
