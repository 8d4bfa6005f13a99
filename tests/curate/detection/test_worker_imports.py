"""Tests that a worker process of curation starts without slow libraries that it does not use."""

import subprocess
import sys

# A worker process imports these modules, because the stages send functions of these modules.
SCRIPT = """
import sys
import curate.detection.detect, curate.photos.read_files
from curate.face_filters import DEFAULT
from manifests.ledger.filters import find_removals
find_removals([], [], DEFAULT)
print(*sorted({"pandas", "scipy.interpolate", "torch", "insightface", "faiss", "sklearn"} & set(sys.modules)))
"""


def test_a_worker_process_does_not_import_slow_libraries():
    result = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []
