"""What is kept is as old as the code that made it: a module tree is edited on disk and asked again by a new process."""
import json, os, subprocess, sys
import pytest, torch
from children import answers
from causalmmr import store
from causalmmr.data import BadInput

TREE = {
    'shopkit/__init__.py': '',
    'shopkit/deep.py': 'SCALE = 10\ndef bottom(x):\n    "Two calls down."\n    return SCALE*x.sum().item()\ndef unrelated(x): return 0\n',
    'shopkit/near.py': 'from . import deep\nclass Maker:\n    def make(self, x): return deep.bottom(x)\n',
    'shopkit/top.py': 'from .near import Maker\ndef artefact(x, note=""):\n    from pathlib import Path\n    with open(note, "a") as f: f.write("made ")\n    return Maker().make(x)\n'}
CALL = ("import sys, json, torch; sys.dont_write_bytecode = True; from causalmmr.store import kept; from shopkit.top import artefact;"
        "print(json.dumps(kept('demo', artefact, torch.ones(2), out=sys.argv[1], note=sys.argv[2])))")

@pytest.fixture
def tree(tmp_path):
    for name, text in TREE.items():
        (tmp_path/name).parent.mkdir(exist_ok=True)
        (tmp_path/name).write_text(text)
    return tmp_path

def called(tree):
    "The artefact, asked for in a process that has never seen the tree before."
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(tree))
    from shopkit.top import artefact
    return store.kept('demo', artefact, torch.ones(2), out=tree/'out', note=str(tree/'note'))

def ask(tree):
    "The artefact as a new process gets it, and how often it has been made by now."
    (got,) = answers(tree, lambda: called(tree))
    return got, (tree/'note').read_text().count('made')

def ask_with_other_hashes(tree):
    "The same of a new interpreter, whose sets have another order."
    path = os.pathsep.join([str(tree), os.environ.get('PYTHONPATH', '')])
    out = subprocess.run([sys.executable, '-c', CALL, tree/'out', tree/'note'], env=os.environ|dict(PYTHONPATH=path, PYTHONHASHSEED='1'), capture_output=True, text=True, check=True)
    return json.loads(out.stdout), (tree/'note').read_text().count('made')

def edit(tree, name, old, new):
    text = (tree/name).read_text()
    assert old in text
    (tree/name).write_text(text.replace(old, new))

def test_an_edit_two_calls_down_makes_it_anew(tree):
    assert ask(tree) == (20., 1)
    assert ask_with_other_hashes(tree) == (20., 1)
    edit(tree, 'shopkit/deep.py', 'return SCALE*', 'return -SCALE*')
    assert ask(tree) == (-20., 2)
    edit(tree, 'shopkit/deep.py', 'SCALE = 10', 'SCALE = 3')                 # a constant
    assert ask(tree) == (-6., 3)

def test_an_unrelated_edit_keeps_it(tree):
    ask(tree)
    edit(tree, 'shopkit/deep.py', 'return 0', 'return 1')                     # a function beside the one that counts
    edit(tree, 'shopkit/deep.py', 'Two calls down.', 'Two calls below.')       # a docstring
    edit(tree, 'shopkit/near.py', 'class Maker', '# a comment\n\nclass Maker')
    assert ask(tree) == (20., 1)

def test_a_disk_that_is_full_leaves_nothing(tmp_path, monkeypatch):
    def full(*a, **k): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(store, 'save_tensors', full)
    with pytest.raises(OSError, match='No space'): store.kept('demo', ones, 2, out=tmp_path)
    assert [p.name for p in (tmp_path/'kept').iterdir()] == ['.locks']

def ones(n): return torch.ones(n)

def test_two_processes_make_it_once(tree):
    edit(tree, 'shopkit/near.py', 'def make(self, x): return', 'def make(self, x):\n        import time; time.sleep(1)\n        return')
    assert answers(tree, *[lambda: called(tree)]*2) == [20., 20.]
    assert (tree/'note').read_text().count('made') == 1

@pytest.mark.parametrize('value', [{1, 2}, object(), [ones]])
def test_what_cannot_come_back_as_it_went_is_not_kept(value, tmp_path):
    def make(): return value
    with pytest.raises(BadInput, match='cannot be kept|content cannot be told'): store.kept('demo', make, out=tmp_path)
    assert not list((tmp_path/'kept').glob('[!.]*'))
