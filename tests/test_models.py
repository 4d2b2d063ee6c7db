"What every model of the package promises, whatever it computes."
import json
import torch
from causalmmr import cli, runs
from causalmmr.models.classic import Popularity


def test_popularity_is_run_kept_read_and_recomputed(tmp_path, capsys):
    data = runs.dataset('toy')
    row = runs.run(Popularity, data, out=tmp_path, progress=False, patience=2)
    assert row['model'] == 'Popularity' and row['epochs'] == 3
    model, _, again = runs.load_run(row['folder'])
    assert torch.equal(model.n, torch.bincount(data.train[1], minlength=data.n_items)) and again['test recall@20'] == row['test recall@20']
    assert cli.main(['train', 'Popularity', 'toy', '-p', 'patience=2', '--out', str(tmp_path), '--json']) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown['run'] == row['run']                                      # the same run, read and not repeated
    assert cli.main(['evaluate', row['run'], '--out', str(tmp_path), '--json']) == 0
    assert json.loads(capsys.readouterr().out)['same']


def test_popularity_resumes(tmp_path):
    "An optimiser without a single tensor is saved and loaded too."
    data, ckpt = runs.dataset('toy'), tmp_path/'c.safetensors'
    fit = lambda **kw: runs.fit(Popularity(data, runs.rng(0)), data, ckpt=ckpt, ckpt_seconds=0., progress=False, **kw)
    fit(epochs=2)
    h = fit(epochs=4)
    assert h.attrs['resumed_from'] == 2 and len(h) == 4
