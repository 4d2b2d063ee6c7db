"""The run box: identity, atomic folders, two processes at once, choosing, loading."""
import contextlib, json, time
from pathlib import Path
import pandas as pd, pytest, torch
from children import Child, answers
from causalmmr import compare, store
from causalmmr.data import BadInput
from causalmmr.models.classic import LightGCN, MFBPR
from causalmmr.models.multimodal import VBPR

HP = dict(d=8, epochs=3, lr=.01, progress=False)
def figures(row): return {k: v for k,v in row.items() if '@' in k}

@pytest.fixture(scope='module')
def toy(): return store.dataset('toy')

@pytest.fixture(scope='module')
def box(tmp_path_factory): return tmp_path_factory.mktemp('box')

@pytest.fixture(scope='module')
def row(toy, box): return store.run(MFBPR, toy, out=box, **HP)

def test_contents_of_a_run(row):
    folder = Path(row['folder'])
    assert sorted(p.name for p in folder.iterdir()) == sorted(store.FILES)
    info, metrics = (json.loads((folder/f).read_text()) for f in ('run.json', 'metrics.json'))
    assert info['settings']['reg'] == store.defaults(MFBPR)['model']['reg']            # defaults are written down
    assert set(metrics) == {'valid', 'test', 'test masked'} and {'ndcg@20', 'ndcg_hits@20'} <= set(metrics['test'])
    assert len(pd.read_parquet(folder/'history.parquet')) == 3
    users = pd.read_parquet(folder/'users.parquet')
    assert users['recall@20'].mean() == pytest.approx(metrics['test']['recall@20'], abs=1e-9)

def test_nothing_private_is_written(row, box):
    text = ''.join((Path(row['folder'])/f).read_text() for f in ('run.json', 'metrics.json'))
    assert str(box) not in text and str(Path.home()) not in text
    assert not [x for x in __import__('platform').uname()[1:2] if x and x in text]

@pytest.mark.parametrize('Model', [LightGCN, VBPR])
def test_saved_weights_rank_as_the_trained_model(Model, toy, box):
    r = store.run(Model, toy, out=box, **HP)
    model, data, _ = store.load_run(r['folder'])
    now = {f'{s} {k}': v for s,x in store.rankings(model, data).items() for k,v in x.mean().items()}
    assert now == figures(r)

def test_a_half_written_run_is_never_read_and_is_done_again(row, toy, box):
    folder = Path(row['folder']); (folder/'model.safetensors').unlink()
    with pytest.warns(UserWarning, match=folder.name): assert folder.name in store.rows(box).attrs['broken']
    again = store.run(MFBPR, toy, out=box, **HP)
    assert figures(again) == figures(row) and store.finished(folder)

def test_rows_of_nothing(tmp_path): assert len(store.rows(tmp_path)) == 0

def test_weights_of_another_width_are_bad_input(row, toy, box, tmp_path):
    import shutil
    other = store.run(MFBPR, toy, out=box, **(HP | dict(d=4)))
    mixed = tmp_path/'mixed'; shutil.copytree(row['folder'], mixed)
    shutil.copy(Path(other['folder'])/'model.safetensors', mixed)
    with pytest.raises(BadInput, match='weights'): store.load_run(mixed)

def test_two_processes_with_the_same_run(toy, tmp_path):
    a, b = answers(tmp_path, *[lambda: figures(store.run(MFBPR, toy, out=tmp_path, d=8, epochs=30, progress=False, ckpt_seconds=0))]*2)
    assert a and a == b
    assert len(list((tmp_path/'runs').glob('[!.]*'))) == 1 and not list((tmp_path/'runs').glob('.*.tmp'))

def test_disk_full_leaves_nothing(toy, tmp_path, monkeypatch):
    def full(*a, **k): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(pd.DataFrame, 'to_parquet', full)
    with pytest.raises(OSError, match='No space'): store.run(MFBPR, toy, out=tmp_path, **HP)
    assert [p.name for p in (tmp_path/'runs').iterdir() if p.is_dir()] == ['.locks']

def test_own_model_needs_no_registration(toy, tmp_path):
    class Half(MFBPR):
        def scores(self, u): return super().scores(u)/2
    r = store.run(Half, toy, out=tmp_path, **HP)
    assert r['model'] == 'Half' and figures(r) == figures(store.run(MFBPR, toy, out=tmp_path, **HP))   # half the score ranks alike
    with pytest.raises(BadInput): store.load_run(r['folder'])                      # a local class cannot be found by its name,
    assert store.load_run(r['folder'], Model=Half)[0].scores(torch.tensor([0])).shape == (1, toy.n_items)   # but can be given

def test_pick_never_sees_test(row):
    t = pd.DataFrame([row])
    for by in ('test recall@20', 'test masked ndcg@20', 'recall@20'):
        with pytest.raises(BadInput): compare.pick(t, by=by)

@contextlib.contextmanager
def unlinked(path):
    "A lock that tidies up after itself."
    import fcntl
    lock = Path(path).with_name('.lock')
    with open(lock, 'a') as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        try: yield
        finally: lock.unlink(missing_ok=True)

def written_by_eight(folder, lock=None):
    "How many of 240 data sets eight processes leave in one table; `lock` stands in for the one that save_table takes."
    folder.mkdir()
    def write(k):
        if lock: compare.locked = lock                                     # in that process alone
        (folder/f'ready{k}').touch()
        while len(list(folder.glob('ready*'))) < 8: time.sleep(.01)
        for n in range(30): compare.save_table(pd.DataFrame(dict(dataset=[f'{k}-{n}'], value=[n])), folder, 'one')
    all_of_them = [Child(lambda k=k: write(k)) for k in range(8)]
    for p in all_of_them: p.wait()
    return pd.read_parquet(folder/'one.parquet').dataset.nunique()

def test_eight_processes_write_one_table(tmp_path):
    assert written_by_eight(tmp_path/'kept') == 240
    tries = (written_by_eight(tmp_path/f'unlinked{n}', unlinked) for n in range(4))
    assert any(n < 240 for n in tries)                                    # a lock file that is unlinked lets a third process in, sooner or later
