"""The command line's contract: every command, with and without --json, and its exit codes."""
import json, subprocess, sys
import numpy as np, pandas as pd, pytest, torch
from causalmmr import cli as program, store
from causalmmr.train import rank

@pytest.fixture
def shell(capfd):
    def go(*args, code=0):
        got = program.main([str(a) for a in args])
        out, err = capfd.readouterr()
        assert got == code, (got, err)
        return out, err
    return go

@pytest.fixture(scope='module')
def out(tmp_path_factory): return tmp_path_factory.mktemp('out')

@pytest.fixture(scope='module')
def row(out): return store.run(program.find_model('LightGCN'), store.dataset('toy'), out=out, d=8, L=1, epochs=3, progress=False)

def test_help(shell):
    text = shell()[0]
    for word in ('list', 'reproduce', 'train', 'evaluate', 'recommend', 'audit', 'data'): assert word in text
    assert all(w in shell('data', '--help')[0] for w in ('list', 'check', 'convert', 'fetch'))

def test_train_is_run(shell, out, row):
    o, _ = shell('train', 'LightGCN', 'toy', '-p', 'd=8', '-p', 'L=1', '-p', 'epochs=3', '--out', out, '--json')
    assert json.loads(o) == json.loads(json.dumps(row))
    o, _ = shell('train', 'LightGCN', 'toy', '-p', 'd=8', '-p', 'L=1', '-p', 'epochs=3', '--out', out)
    assert f"{row['test recall@20']:.4f}" in o and row['run'] in o
    for heading in ('recall@10', 'ndcg@10', 'recall@20', 'ndcg@20', 'test masked'): assert heading in o
    assert max(len(l) for l in o.split('\n') if l[:1] in ('│', '┃')) <= 80

def test_help_names_every_simulated_shop(shell):
    from causalmmr.causal.scm import WORLDS
    text = shell('train', '--help')[0]
    assert all(w in text for w in WORLDS), text

def test_progress_goes_to_stderr(shell, tmp_path):
    o, e = shell('train', 'MFBPR', 'toy', '-p', 'd=4', '-p', 'epochs=1', '--out', tmp_path, '--json')
    assert json.loads(o)['epochs'] == 1 and 'epoch' in e

def test_evaluate(shell, row, out):
    doc = json.loads(shell('evaluate', row['run'][:8], '--out', out, '--json')[0])
    assert doc['same'] and {f['metric']: f['recomputed'] for f in doc['figures']} == {k: v for k,v in row.items() if '@' in k}
    assert 'last digit' in shell('evaluate', row['folder'])[0]

def test_recommend(shell, row):
    doc = json.loads(shell('recommend', row['folder'], '--user', 7, '-k', 500, '--json')[0])
    data = store.dataset('toy'); seen = torch.cat([data.train, data.valid], 1)
    mine = set(seen[1][seen[0]==7].tolist()); items = [i['item'] for i in doc['items']]
    assert set(items) == set(range(data.n_items)) - mine and len(items) == len(set(items))       # all unseen items, and only these
    assert [i['score'] for i in doc['items']] == sorted((i['score'] for i in doc['items']), reverse=True)
    model = store.load_run(row['folder'])[0]
    with torch.no_grad(): s = model.scores(torch.tensor([7]))[0]
    assert doc['items'][0]['score'] == s[items].max().item()

def test_recommend_shows_titles(shell, row, monkeypatch):
    import dataclasses
    data = store.dataset('toy'); titled = dataclasses.replace(data, items=data.items.assign(title=[f'thing {i}' for i in range(data.n_items)]))
    monkeypatch.setattr(program, 'load_run', lambda *a, **k: (store.load_run(row['folder'])[0], titled, row))
    for item in json.loads(shell('recommend', row['folder'], '--user', 0, '--json')[0])['items']: assert item['title'] == f"thing {item['item']}"

def test_audit(shell, row):
    fast = ['--attribute', 'gender', '--epochs', 2, '--seeds', 1]
    doc = json.loads(shell('audit', row['folder'], *fast, '--json')[0])
    users = pd.read_parquet(f"{row['folder']}/users.parquet"); g = store.dataset('toy').users.gender.iloc[users.user].to_numpy()
    for group in doc['groups']: assert group['ndcg@20'] == pytest.approx(users['ndcg@20'][g==group['group']].mean()) and group['users'] == (g==group['group']).sum()
    d, x = doc['difference'][0], users['recall@20']
    se = sum(x[g==v].var()/(g==v).sum() for v in (0, 1))**.5
    assert (d['lo'], d['hi']) == pytest.approx((d['difference']-2*se, d['difference']+2*se))
    shuffled = [abs(x[p==0].mean()-x[p==1].mean()) for p in (np.random.default_rng(k).permutation(g) for k in range(500))]
    assert abs(d['by_chance'] - np.mean(np.array(shuffled) >= d['difference'])) < .1 and {m['metric'] for m in doc['difference']} == {'recall@20', 'ndcg@20', 'exposure'}
    model, data, _ = store.load_run(row['folder'])                      # the same attacks, asked for by hand
    labels = dict(gender=torch.tensor(data.users.gender.to_numpy()))
    again = program.leakage(program.views(model, data), labels, program.attacker_users(data), seeds=1, epochs=2)
    assert [(f['view'], f['metric'], f['official'], f['auc']) for f in doc['leakage']] == [(f.view, f.metric, f.official, f.auc) for f in again.itertuples()]
    text = shell('audit', row['folder'], *fast)[0]
    assert 'gender' in text and 'implicit' in text and 'exposure' in text

def test_audit_of_a_filtered_run(shell, out, row):
    "A run on another model's vectors needs no base to be audited, and says so when twins are asked for."
    from causalmmr.fair.filters import FairTuning, freeze
    base = freeze(store.load_run(row['folder'])[0])
    fair = store.run(FairTuning, store.dataset('toy'), out=out, base=base, epochs=2, batch=1024, d_steps=1, progress=False)
    fast = ['--attribute', 'age', '--epochs', 2, '--seeds', 1]
    doc = json.loads(shell('audit', fair['run'][:9], *fast, '--out', out, '--json')[0])
    assert len(doc['groups']) == 7 and {f['metric'] for f in doc['leakage']} == {'micro-F1'}
    assert 'fmmrec_counterfactual' in shell('audit', fair['run'][:9], *fast, '--twins', '--out', out, code=2)[1]

def test_masking_leaves_every_model_as_it_was():
    "Ranking hides items by writing into scores: a second ranking, with nothing hidden, must find them again."
    data = store.dataset('toy'); u = torch.arange(data.n_users)
    for name in program.MODELS:
        model = program.find_model(name)(data, program.rng(0))
        rank(model, u, 5, (data.train, data.valid, data.test))
        assert rank(model, u, data.n_items)[1].isfinite().all(), name

def test_list(shell, tmp_path):
    doc = json.loads(shell('list', '--json')[0])
    assert 'classic' in {t['name'] for t in doc['tables']} and {'MFBPR', 'LightGCN', 'UltraGCN', 'VBPR'} <= {m['name'] for m in doc['models']}
    assert {d['name']: d['present'] for d in doc['data']} | dict(toy=True, smoke=True) == {d['name']: d['present'] for d in doc['data']}
    (tmp_path/'baby').mkdir(); (tmp_path/'baby'/'inter.parquet').touch()
    here = {d['name']: d['present'] for d in json.loads(shell('list', '--data', tmp_path, '--json')[0])['data']}
    assert here['baby'] and not here['sports'] and 'LightGCN' in shell('list')[0]

def test_data_list_and_check(shell):
    assert {'toy', 'ml1m'} <= {d['name'] for d in json.loads(shell('data', 'list', '--json')[0])['data']}
    assert json.loads(shell('data', 'check', 'toy', '--json')[0])['usable']

def test_data_check_finds_what_is_fatal(shell, tmp_path):
    pd.DataFrame(dict(userID=[0,0,1,1], itemID=[0,1,0,1], x_label=[0,0,1,1])).to_parquet(tmp_path/'inter.parquet')
    o, _ = shell('data', 'check', tmp_path, '--json', code=1)
    doc = json.loads(o)
    assert not doc['usable'] and 'test' in {p['where'] for p in doc['problems']}

@pytest.mark.parametrize('format', ['mmrec', 'parquet'])
def test_convert_and_train_on_the_result(shell, tmp_path, format):
    shell('data', 'convert', 'toy', tmp_path/'copy', '--format', format)
    a, b = store.dataset('toy'), store.dataset(tmp_path/'copy')
    assert torch.equal(a.train, b.train) and torch.equal(a.test, b.test) and set(a.feats) == set(b.feats) and (a.n_users, a.n_items) == (b.n_users, b.n_items)
    shell('data', 'convert', 'toy', tmp_path/'copy', code=2)                       # what exists is not overwritten

def test_own_model_by_path(shell, tmp_path, monkeypatch):
    (tmp_path/'my_models.py').write_text("from causalmmr.models.classic import MFBPR\nclass Mine(MFBPR):\n    'Mine.'\n    def scores(self, u): return -super().scores(u)\n")
    monkeypatch.chdir(tmp_path)
    row = json.loads(shell('train', 'my_models:Mine', 'toy', '-p', 'd=4', '-p', 'epochs=1', '--json')[0])
    assert row['model'] == 'Mine' and json.loads(shell('evaluate', row['run'], '--json')[0])['same']
    (tmp_path/'my_broken.py').write_text('class Mine(:')
    assert 'my_broken' in shell('train', 'my_broken:Mine', 'toy', code=2)[1]

def test_stdout_closed_early_is_no_traceback():
    "As in `causalmmr list | head`: the reader has gone before the first line."
    import os
    read, write = os.pipe(); os.close(read)
    p = subprocess.run([sys.executable, '-m', 'causalmmr.cli', 'list', '--json'], stdout=write, stderr=subprocess.PIPE, text=True, timeout=300)
    os.close(write)
    assert p.returncode == 1 and p.stderr == '', p.stderr
