"""Python imports this module at its start where this folder is on PYTHONPATH: a command under test gets its hook."""

from tests.doubles import faults_hook

faults_hook.install()
