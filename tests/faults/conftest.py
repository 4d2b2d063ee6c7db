"""Faults on purpose: how many is `FAULTS` (make test-faults: 100 kills, 2,000 inputs; else a short part of each), and what they did is counted."""
import os, random, shutil, signal, sys, tempfile, time
from collections import Counter
from pathlib import Path
import pytest

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

class Child:
    "A process of its own: a copy of this one, so that nothing has to be imported again."
    def __init__(self, work, out='/dev/null', before=lambda: None):
        self.began, self.pid = time.monotonic(), os.fork()
        if self.pid: return
        code = 99
        try:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            file = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(file, 1); os.dup2(file, 2)
            sys.stdout, sys.stderr = open(1, 'w', closefd=False), open(2, 'w', closefd=False)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            before()
            code = work() or 0
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            for f in (sys.stdout, sys.stderr):
                try: f.flush()
                except OSError: pass
            os._exit(code)

    def wait(self): # -> exit code, or minus the signal
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.seconds = time.monotonic()-self.began
        return code

    def kill(self, after): # seconds -> was it killed before it had ended?
        time.sleep(after)
        os.kill(self.pid, signal.SIGKILL)
        return self.wait() == -signal.SIGKILL

@pytest.fixture
def child(): return Child

@pytest.fixture
def anybodys():
    "A folder that a user without rights may reach."
    folder = Path(tempfile.mkdtemp(prefix='faults-'))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
