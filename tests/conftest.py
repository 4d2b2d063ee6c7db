"""What several test files need: the repository's root, the command of this environment, and the real data where they are."""
import os, subprocess, sys
from pathlib import Path
import pytest

os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')       # before torch: waiting threads must not burn the other test's core

@pytest.fixture(scope='session')
def root(): return Path(__file__).resolve().parent.parent

@pytest.fixture(scope='session')
def cli():
    "Run `causalmmr …` of this environment as a user would: `cli('list', '--json')` gives returncode, stdout and stderr."
    def run(*args, env=None, timeout=600, **kw):
        return subprocess.run([sys.executable, '-m', 'causalmmr.cli', *map(str, args)], text=True, capture_output=True, timeout=timeout,
                              stdin=subprocess.DEVNULL, env={**os.environ, **(env or {})}, **kw)
    return run

@pytest.fixture(scope='session')
def real_data():
    "Folder of the real data sets; without it the test is skipped, and says so."
    d = os.environ.get('CAUSALMMR_DATA', '')
    if not d: pytest.skip('needs real data: CAUSALMMR_DATA is not set')
    if not Path(d).is_dir(): pytest.skip(f'needs real data: CAUSALMMR_DATA={d} is not a folder')
    return Path(d)
