"""What several test files need: the repository's root, the command of this environment, and the real data where they are."""
import json, os, subprocess, sys, traceback
from pathlib import Path
from types import SimpleNamespace
import pytest

os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')       # before torch: waiting threads must not burn the other test's core

# What takes longest begins first, so that the workers of pytest-xdist end together (Makefile: whole files, in this order); the rest follows.
LONGEST = 'test_docs test_kills test_fuzz test_reproduce test_models test_hostile test_attack test_camrec test_tune test_shop test_damage test_data test_addrl test_painvrl test_scm'.split()

@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    place = {name: k for k, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))

HOSTILE = []      # what came of every attack and every hostile input of test_hostile.py

def pytest_runtest_logreport(report):
    if report.when == 'call' and 'test_hostile.py' in report.nodeid: HOSTILE.append(report.passed)

def pytest_terminal_summary(terminalreporter):
    if HOSTILE: terminalreporter.write_line(f'attacks and hostile inputs: {sum(HOSTILE):,} of {len(HOSTILE):,} refused, or taken as the text that they are')

@pytest.fixture(scope='session')
def root(): return Path(__file__).resolve().parent.parent

@pytest.fixture(scope='session')
def cli():
    "Run `causalmmr …` of this environment as a user would: `cli('list', '--json')` gives returncode, stdout and stderr."
    def run(*args, env=None, timeout=600, **kw):
        return subprocess.run([sys.executable, '-m', 'causalmmr.cli', *map(str, args)], text=True, capture_output=True, timeout=timeout,
                              stdin=subprocess.DEVNULL, env={**os.environ, **(env or {})}, **kw)
    return run

@pytest.fixture
def here(capfd):
    "The same in this process, which has imported everything: for what a command answers, not for the process that it is."
    def run(*args):
        from causalmmr.cli import main
        capfd.readouterr()
        code = main([str(a) for a in args])
        return SimpleNamespace(returncode=code, **dict(zip(('stdout', 'stderr'), capfd.readouterr())))
    return run

@pytest.fixture
def shell(here):
    "The same, where its exit code must be `code`: what it answers, read where it is JSON; of another code than 0 what it complains of."
    def run(*args, code=0):
        got = here(*args)
        assert got.returncode == code, (got.returncode, got.stderr)
        if code: return got.stderr
        return json.loads(got.stdout) if '--json' in args else got.stdout
    return run

@pytest.fixture
def no_kernel(monkeypatch):
    "papermill executes the cells in this process: a kernel starts for seconds, and most tests of jobs are about what comes before and after."
    from nbformat.v4 import new_output
    from papermill.engines import Engine, papermill_engines
    class Here(Engine):
        @classmethod
        def execute_managed_notebook(cls, nb_man, kernel_name, **kw):
            names = {}
            for k, cell in enumerate(nb_man.nb.cells):
                if cell.cell_type != 'code': continue
                nb_man.cell_start(cell, k)
                try: exec(cell.source, names)
                except Exception as e:
                    cell.outputs = [new_output('error', ename=type(e).__name__, evalue=str(e), traceback=traceback.format_exc().split('\n'))]
                    nb_man.cell_exception(cell, k, exception=e)
                    break
                finally: nb_man.cell_complete(cell, k)
    monkeypatch.setitem(papermill_engines._engines, None, Here)

@pytest.fixture(scope='session')
def real_data():
    "Folder of the real data sets; without it the test is skipped, and says so."
    d = os.environ.get('CAUSALMMR_DATA', '')
    if not d: pytest.skip('needs real data: CAUSALMMR_DATA is not set')
    if not Path(d).is_dir(): pytest.skip(f'needs real data: CAUSALMMR_DATA={d} is not a folder')
    return Path(d)
