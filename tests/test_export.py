"""Exports that need nothing of this package, and trackers: a real MLflow with its SQLite store, and TensorBoard's own reader."""
import json, re, shlex, subprocess, sys
from pathlib import Path
import numpy as np, pandas as pd, pytest, torch
from causalmmr import export, store
from causalmmr.cli import MODELS, find_model
from causalmmr.train import rank, rng

HP = ['-p', 'd=8', '-p', 'epochs=7', '-p', 'eval_every=3']

ALONE = '''
import json, sys
class Closed:                                     # neither torch nor this package may be asked for
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('torch', 'causalmmr', 'pandas'): raise ImportError(name)
sys.meta_path.insert(0, Closed())
import runpy
m = runpy.run_path(sys.argv[1])
print(json.dumps(dict(scores=m['scores'](list(range(20))).tolist(), best=[m['best'](u, 10)[0].tolist() for u in range(20)])))
'''

@pytest.mark.parametrize('name', MODELS)
def test_written_scores_are_the_models_or_none_are_written(name, tmp_path):
    "Every model of the command line: its tables score as it does, or there are none."
    data = store.dataset('toy')
    model = find_model(name)(data, rng(0)).eval()
    tables = export.two_tables(model, data)
    u = torch.arange(data.n_users)
    s = model.scores(u).detach().numpy()
    if tables:
        own = tables['user']@tables['item'].T + tables.get('item_bias', 0)
        assert np.abs(own-s).max() <= 1e-6*max(1, np.abs(s).max())
    assert bool(tables) == (name not in ('EASE', 'CEASE', 'NeuMF', 'MacridVAE', 'DMRL', 'MAML', 'PDA', 'ADDRL'))

@pytest.mark.parametrize('model, more', [('VBPR', HP), ('LightGCN', HP), ('FairGo', ['--scale', 'smoke', '-p', 'base.epochs=3'])])
def test_the_folder_scores_without_the_package(shell, tmp_path, model, more):
    row = shell('train', model, 'toy', *more, '--out', tmp_path, '--json')
    shell('export', row['run'], tmp_path/'to', '--out', tmp_path)
    p = subprocess.run([sys.executable, '-c', ALONE, str(tmp_path/'to'/'score.py')], capture_output=True, text=True, timeout=120)
    assert p.returncode == 0, p.stderr
    said = json.loads(p.stdout)
    trained, data, _ = store.load_run(row['folder'])
    users = torch.arange(20)
    assert np.abs(np.array(said['scores'])-trained.scores(users).detach().numpy()).max() < 1e-6
    assert said['best'] == rank(trained, users, 10, (data.train, data.valid))[0].tolist()
    words = shlex.split(re.search(r'^`(causalmmr train .*)`$', (tmp_path/'to'/'README.md').read_text(), re.M)[1])[1:]
    again = shell(*words, '--out', tmp_path/'again', '--json')
    assert again['run'] == row['run'] and again['test recall@20'] == row['test recall@20']

def test_a_shop_is_called_by_its_own_names(shell, tmp_path):
    pd.DataFrame([dict(user=f'u{u}', item=f'sku-{(u*7+k*k)%30}') for u in range(40) for k in range(9)]).to_csv(tmp_path/'clicks.csv', index=False)
    shell('data', 'import', tmp_path/'shop', '--interactions', tmp_path/'clicks.csv')
    row = shell('train', 'MFBPR', tmp_path/'shop', *HP, '--out', tmp_path, '--json')
    shell('export', row['run'], tmp_path/'to', '--out', tmp_path, '--dataset', tmp_path/'shop')
    p = subprocess.run([sys.executable, tmp_path/'to'/'score.py', 'u7', '3'], capture_output=True, text=True, timeout=120)
    want = shell('recommend', row['run'], '--user', 'u7', '-k', 3, '--out', tmp_path, '--dataset', tmp_path/'shop', '--json')
    assert [line.split('\t')[0] for line in p.stdout.splitlines()] == [i['item'] for i in want['items']] and 'sku-' in p.stdout
    card = (tmp_path/'to'/'README.md').read_text()
    assert 'personal data' in card and 'sha256' in card and 'simulated' not in card           # where the clicks came from is told

def test_no_two_tables_is_one_sentence(shell, tmp_path):
    row = shell('train', 'EASE', 'toy', '-p', 'epochs=1', '--out', tmp_path, '--json')
    said = shell('export', row['run'], tmp_path/'to', '--out', tmp_path)
    assert said.count('no product of two rows') == 1 and not (tmp_path/'to'/'score.py').exists()
    assert (tmp_path/'to'/'model.safetensors').is_file() and 'no product of two rows' in (tmp_path/'to'/'README.md').read_text()

def test_a_run_that_was_altered_is_not_exported(shell, tmp_path):
    row = shell('train', 'MFBPR', 'toy', *HP, '--out', tmp_path, '--json')
    users = Path(row['folder'])/'users.parquet'
    pd.read_parquet(users).assign(**{'recall@20': 1.}).to_parquet(users)
    assert 'not what was written' in shell('export', row['folder'], tmp_path/'to', code=2) and not (tmp_path/'to').exists()

def test_without_the_package_of_a_tracker_nothing_begins(shell, tmp_path, monkeypatch):
    monkeypatch.setattr(export.importlib.util, 'find_spec', lambda name: None)
    for name in export.TRACKERS:
        err = shell('train', 'MFBPR', 'toy', *HP, '--track', name, '--out', tmp_path/'out', code=2)
        assert f"pip install 'causalmmr[{name}]'" in err and err.count('\n') == 1
    assert not (tmp_path/'out').exists()

# ---- the trackers themselves

def wanted(folder): # of a run -> what a tracker must hold of its training
    h = pd.read_parquet(Path(folder)/'history.parquet')
    return dict(loss=list(zip(h.epoch, h.loss)), recall_at_20=[(e, v) for e,v in zip(h.epoch, h['recall@20']) if v == v])

def close(a, b): return [s for s,_ in a] == [s for s,_ in b] and np.allclose([v for _,v in a], [v for _,v in b], rtol=1e-6)

def mlflow_runs(out): # -> client, runs
    from mlflow.tracking import MlflowClient
    client = MlflowClient(f"sqlite:///{out/'mlflow.db'}")
    return client, client.search_runs([client.get_experiment_by_name('causalmmr').experiment_id])

def in_mlflow(out):
    client, (run,) = mlflow_runs(out)
    return run, {k: sorted((m.step, m.value) for m in client.get_metric_history(run.info.run_id, k)) for k in run.data.metrics}

@pytest.fixture
def mlflow(monkeypatch):
    monkeypatch.delenv('MLFLOW_TRACKING_URI', raising=False)
    return pytest.importorskip('mlflow', reason='needs MLflow, which is in the extra "mlflow"')

@pytest.fixture
def tensorboard(): return pytest.importorskip('tensorboard', reason='needs TensorBoard, which is in the extra "tensorboard"')

def test_mlflow_holds_what_the_run_holds(shell, tmp_path, mlflow):
    row = shell('train', 'MFBPR', 'toy', *HP, '--track', 'mlflow', '--out', tmp_path, '--json')
    run, found = in_mlflow(tmp_path)
    for k,v in wanted(row['folder']).items(): assert close(found[k], v), k
    assert found['test masked/ndcg_at_10'] == [(7, row['test masked ndcg@10'])] and run.info.status == 'FINISHED'
    assert run.data.params['d'] == '8' and run.data.params['epochs'] == '7' and run.data.tags['causalmmr.run'] == row['run']
    shell('train', 'MFBPR', 'toy', *HP, '--track', 'mlflow', '--out', tmp_path)                # read, and not told again
    assert in_mlflow(tmp_path)[1] == found
    alone = shell('train', 'MFBPR', 'toy', *HP, '--out', tmp_path/'alone', '--json')
    assert {k: v for k,v in alone.items() if '@' in k} == {k: v for k,v in row.items() if '@' in k}
    assert not (Path.cwd()/'mlruns').exists()

def test_mlflow_goes_on_after_an_interruption(shell, tmp_path, mlflow, monkeypatch):
    real, calls = export.MLflow.tell, []
    def tell(self, step, found):
        real(self, step, found)
        calls.append(step)
        if step == 4: raise KeyboardInterrupt
    args = ['train', 'MFBPR', 'toy', *HP, '--track', 'mlflow', '--ckpt-seconds', '0', '--out', tmp_path]
    with monkeypatch.context() as m:
        m.setattr(export.MLflow, 'tell', tell)
        shell(*args, code=130)
    assert in_mlflow(tmp_path)[0].info.status == 'KILLED' and calls == [1, 2, 3, 4]
    row = shell(*args, '--json')
    run, found = in_mlflow(tmp_path)                                                           # one run, and every epoch once
    assert run.info.status == 'FINISHED' and row['resumed_from'] > 0
    for k,v in wanted(row['folder']).items(): assert close(found[k], v), k

def test_mlflow_of_stages(shell, tmp_path, mlflow, monkeypatch):
    "Each stage that is trained is a run of its own; the store is the one that MLflow's own variable names."
    (tmp_path/'theirs').mkdir()
    monkeypatch.setenv('MLFLOW_TRACKING_URI', f"sqlite:///{tmp_path/'theirs'/'mlflow.db'}")
    row = shell('train', 'AL', 'toy', '--scale', 'smoke', '-p', 'base.epochs=3', '--track', 'mlflow', '--out', tmp_path, '--json')
    names = {r.data.tags['causalmmr.run'] for r in mlflow_runs(tmp_path/'theirs')[1]}
    assert not (tmp_path/'mlflow.db').exists() and names == {Path(x['folder']).name for x in row['stages']} and len(names) == 2

def in_tensorboard(out):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    (at,) = (out/'tensorboard').iterdir()
    events = EventAccumulator(str(at)).Reload()
    return {k: [(e.step, e.value) for e in events.Scalars(k)] for k in events.Tags()['scalars']}

def test_tensorboard_holds_what_the_run_holds(shell, tmp_path, tensorboard, monkeypatch):
    args = ['train', 'MFBPR', 'toy', *HP, '--track', 'tensorboard', '--ckpt-seconds', '0', '--out', tmp_path]
    real = export.TensorBoard.tell
    def tell(self, step, found):
        real(self, step, found)
        if step == 4: raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr(export.TensorBoard, 'tell', tell)
        shell(*args, code=130)
    row = shell(*args, '--json')
    found = in_tensorboard(tmp_path)
    for k,v in wanted(row['folder']).items(): assert close(found[k], v), k
    assert close(found['test/recall_at_20'], [(7, row['test recall@20'])]) and row['resumed_from'] > 0
    shell(*args)
    assert in_tensorboard(tmp_path) == found
    shell(*args, '--fresh')
    assert in_tensorboard(tmp_path).keys() == found.keys() and len(in_tensorboard(tmp_path)['loss']) == 7
