"""Installs the hook of tests/doubles/faults_hook.py.

Python imports this file at its start if PYTHONPATH has this folder.
"""

from tests.doubles import faults_hook

faults_hook.install()
