"""Faults on purpose: how many is `FAULTS` (make test-faults: 100 kills, 2,000 inputs; else a short part of each), and what they did is counted."""
import os, random, shutil, tempfile
from collections import Counter
from pathlib import Path
import pytest
from children import Child

MANY = os.environ.get('FAULTS', '') == 'many'
TALLY = Counter()

def pytest_terminal_summary(terminalreporter):
    if TALLY: terminalreporter.write_line('faults: ' + ', '.join(f'{n:,} {what}' for what, n in TALLY.items()))

@pytest.fixture
def tally(): return TALLY

@pytest.fixture
def dice(request):
    "Seeded by the test's name: the same moments and bits every time."
    return random.Random(request.node.name)

@pytest.fixture
def child(): return Child

@pytest.fixture
def anybodys():
    "A folder that a user without rights may reach."
    folder = Path(tempfile.mkdtemp(prefix='faults-'))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
