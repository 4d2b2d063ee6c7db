"""SIGKILL at random moments: what was finished is kept, what was not is done again, and the digits are those of a run that nobody killed."""
import json, os, re, signal, time
import nbformat, pandas as pd, pytest, torch
from causalmmr import reproduce, store
from causalmmr.compare import save_table
from causalmmr.models.classic import LightGCN, MFBPR
from conftest import MANY
from test_reproduce import PARAMETERS

KILLS = dict(train=45, kept=15, table=15, tune=15, job=10) if MANY else dict(train=4, kept=1, table=1, tune=1, job=0)

def rounds(child, dice, work, kills, fresh, whole, tally):
    """Kill `work` again and again until `kills` were killed, at most three times in a row in one place, then let it end.

    `fresh` makes a new place, `whole` tells what is there at the end; it must be what an undisturbed process leaves.
    """
    assert not work(fresh())                                         # here, so that no child has to import what it needs
    place = fresh()
    undisturbed = child(lambda: work(place))
    assert undisturbed.wait() == 0
    want, longest, killed = whole(place), undisturbed.seconds, 0
    while killed < kills:
        place = fresh()
        for _ in range(min(dice.randint(1, 3), kills-killed)): killed += child(lambda: work(place)).kill(dice.uniform(0, longest))
        assert child(lambda: work(place)).wait() == 0
        assert whole(place) == want
        assert not list(place.rglob('.*.tmp')) and not list(place.rglob('*.damaged*'))    # no leftover, and nothing half that had a name
    tally['kills'] += killed
    tally['figures lost or changed'] += 0

@pytest.fixture
def places(tmp_path): return lambda n=iter(range(10**6)): (tmp_path/f'p{next(n)}')

@pytest.mark.parametrize('Model', [MFBPR, LightGCN])
def test_training_and_ranking(Model, child, dice, places, tally):
    toy = store.dataset('toy')
    work = lambda out: store.run(Model, toy, out=out, d=8, epochs=12, lr=.02, batch=256, ckpt_seconds=0, progress=False) and 0
    def whole(out):
        (folder,) = (p for p in (out/'runs').iterdir() if p.name[0] != '.')
        row = store.checked(folder)
        assert not list((out/'runs').glob('.*.ckpt.*'))
        history = pd.read_parquet(folder/'history.parquet').drop(columns='seconds')
        return {k: v for k,v in row.items() if '@' in k}, history.to_json(), (folder/'users.parquet').read_bytes()
    kills = KILLS['train']//2 + (Model is MFBPR and KILLS['train']%2)
    rounds(child, dice, work, kills, places, whole, tally)

def costly(x, steps, ckpt=None): # goes on where it stopped
    t = store.load_tensors(ckpt)[0]['t'] if ckpt.exists() else x
    at = store.load_tensors(ckpt)[1]['at'] if ckpt.exists() else 0
    for k in range(at, steps):
        t = torch.tanh(t@x)+x/(k+1)
        store.save_tensors(ckpt, dict(t=t), dict(at=k+1))
    return dict(t=t, table=pd.DataFrame(dict(mean=t.mean(1).numpy())))

def test_artefacts(child, dice, places, tally):
    x = torch.rand(60, 60, generator=store.rng(0))/30
    work = lambda out: store.kept('costly', costly, x, 40, out=out) and 0
    def whole(out):
        (folder,) = (p for p in (out/'kept').iterdir() if p.name[0] != '.')
        return store.read_kept(folder)['t'].tolist()
    rounds(child, dice, work, KILLS['kept'], places, whole, tally)

def test_tables(child, dice, places, tally):
    "Every line that was said to be written is there after the kill, and no other line has changed."
    def work(out):
        out.mkdir(exist_ok=True)
        for n in range(25):
            save_table(pd.DataFrame(dict(dataset=[f'd{n}'], value=[n/7])), out, 'one')
            with open(out/'said', 'a') as f: f.write(f'd{n}\n')
    def whole(out):
        t = pd.read_parquet(out/'one.parquet')
        assert set((out/'said').read_text().split()) <= set(t.dataset)
        return sorted(zip(t.dataset, t.value))
    rounds(child, dice, work, KILLS['table'], places, whole, tally)

def test_searches(child, dice, places, tally):
    pytest.importorskip('optuna', reason='a search needs Optuna')
    from causalmmr.tune import tune
    toy = store.dataset('toy')
    def work(out):
        line, tried = tune(MFBPR, toy, trials=3, out=out, progress=False, fixed=dict(epochs=4, eval_every=1))
        (out/'answer').write_text(json.dumps([line['chosen'], line['figure'], sorted((json.dumps(s, sort_keys=True), v) for s, v in zip(tried.settings, tried.value))]))
    def whole(out):
        for folder in (out/'runs').iterdir():
            if folder.name[0] != '.': store.checked(folder)
        return (out/'answer').read_text()
    rounds(child, dice, work, KILLS['tune'], places, whole, tally)

JOB = '''
import pandas as pd
from causalmmr import store
from causalmmr.models.classic import MFBPR
from causalmmr.pages import publish
row = store.run(MFBPR, store.dataset(dataset), out=out_dir, d=8, epochs=8, ckpt_seconds=0, progress=False)
publish(out_dir, False, store.dataset(dataset).fingerprint[:8], kill=pd.DataFrame(dict(dataset=[dataset], model=['MFBPR'], metric=['recall'], k=[20], seed=[0], value=[row['test recall@20']], paper_value=[float('nan')])))
'''

@pytest.mark.skipif(not KILLS['job'], reason='three kernels for each kill: in make test-faults only')
def test_jobs(child, dice, places, tally, tmp_path, monkeypatch):
    shelf = tmp_path/'shelf'; shelf.mkdir()
    cells = [nbformat.v4.new_code_cell(PARAMETERS, metadata=dict(tags=['parameters'])), nbformat.v4.new_code_cell(JOB)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), shelf/'kill.ipynb')
    monkeypatch.setenv('CAUSALMMR_TABLES', str(shelf))
    import nbconvert, papermill   # noqa: F401 (once, and not in every child)
    def work(out):
        ((row,), page) = reproduce.reproduce(['kill'], out_dir=out, datasets=['toy'], echo=lambda s: None)
        return row['status'] not in ('done', 'kept')
    def whole(out):
        assert "<span class='failed'>" not in (out/'report.html').read_text()
        return reproduce.results(out, 'kill', 'toy').to_json()
    rounds(child, dice, work, KILLS['job'], places, whole, tally)

# --- an interrupt is no kill

SLOW = "import time, pathlib\npathlib.Path(out_dir, 'waiting').touch()\ntime.sleep(600)"

def test_one_interrupt_ends_a_reproduction_within_seconds(child, tmp_path, monkeypatch):
    from causalmmr.cli import main
    shelf = tmp_path/'shelf'; shelf.mkdir()
    for name, code in dict(a_quick='x = 1', b_slow=SLOW, c_never=SLOW).items():
        nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(PARAMETERS, metadata=dict(tags=['parameters'])), nbformat.v4.new_code_cell(code)]), shelf/f'{name}.ipynb')
    monkeypatch.setenv('CAUSALMMR_TABLES', str(shelf))
    out = tmp_path/'out'
    p = child(lambda: main(['reproduce', '--all', '--out', str(out)]), out=str(tmp_path/'said'))
    for _ in range(6000):
        if (out/'waiting').exists(): break
        time.sleep(.02)
    began = time.monotonic()
    os.kill(p.pid, signal.SIGINT)
    code, said = p.wait(), (tmp_path/'said').read_text()
    assert code == 130 and time.monotonic()-began < 30, said                    # and not the ten minutes that the cell sleeps
    assert 'Traceback' not in said
    last = said.strip().split('\n')[-1]
    assert re.fullmatch(r'causalmmr: interrupted; 2 of 3 jobs are left \(b_slow-.*, c_never-.*\), and the same command goes on with them\.', last), last
    report = (out/'report.html').read_text()
    assert all(f"<span class='{status}'>{status}</span>" in report for status in ('done', 'left'))
    assert [j.done() for j in reproduce.plan(out_dir=out)] == [True, False, False]   # what was finished is kept
