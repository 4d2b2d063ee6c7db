"""Models in stages from the shell: the pages' runs, kills between and inside stages, stages shared, and what each command says of them."""
import json, signal, subprocess, sys
from pathlib import Path
import pytest, torch
from causalmmr import stages, store
from causalmmr.cli import MODELS
from causalmmr.disentangle import Split
from causalmmr.fair.filters import freeze
from causalmmr.models.fmmrec import FMMRec, STAGES, parts_of
from causalmmr.models.itemgraph import LATTICE
from test_resume import wait_for

FEW = ['--scale', 'smoke', '-p', 'base.epochs=3']

def command(*args): return [sys.executable, '-m', 'causalmmr.cli', *map(str, args)]     # a process that can be killed

def figures(row): return {k: v for k,v in row.items() if '@' in k}

@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "FMMRec trained without any interruption."
    out = tmp_path_factory.mktemp('whole')
    chain = stages.Staged(stages.Place(store.dataset('toy'), 'smoke', str(out)), 'FMMRec', {'base.epochs': 3})
    return out, chain.last(), chain.done

def stamps(out): return {p: p.stat().st_mtime_ns for kind in ('runs', 'kept') for p in (Path(out)/kind).glob('[!.]*/*')}

def test_it_is_what_the_tables_compute(whole):
    "The chain spelled out once more, with nothing of 75_stages: base, parts, frozen vectors, filters."
    data, s = store.dataset('toy'), STAGES['smoke']
    base = store.run(LATTICE, data, seed=0, out=whole[0]/'by hand', progress=False, **s['base'] | dict(epochs=3))
    parts = {m: Split(*x) for m,x in parts_of(data, how='adversarial', **s['split']).items()}
    vectors = freeze(store.load_run(base['folder'])[0], parts)
    row = store.run(FMMRec, data, seed=0, out=whole[0]/'by hand', progress=False, base=vectors, **s['tune'])
    assert row['run'] == whole[1]['run'] and figures(row) == figures(whole[1])

@pytest.mark.parametrize('where', ['split', 'filters'])
def test_stopped_between_stages_it_goes_on_with_the_next(shell, whole, tmp_path, monkeypatch, where):
    stop = dict(split=('kept', lambda *a, **k: True), filters=('run', lambda Model, *a, **k: Model is FMMRec))[where]
    module = {'kept': stages, 'run': sys.modules['causalmmr.cli']}[stop[0]]
    real = getattr(module, stop[0])
    def broken(*args, **own):
        if stop[1](*args, **own): raise KeyboardInterrupt
        return real(*args, **own)
    with monkeypatch.context() as m:
        m.setattr(module, stop[0], broken)
        shell('train', 'FMMRec', 'toy', *FEW, '--out', tmp_path, code=130)
    before = stamps(tmp_path)
    again = shell('train', 'FMMRec', 'toy', *FEW, '--out', tmp_path, '--json')
    was = {x['stage']: x['was'] for x in again['stages']}
    assert figures(again) == figures(whole[1]) and again['run'] == whole[1]['run']
    assert was == dict(base='read', split='read' if where == 'filters' else 'made', filters='made')
    after = stamps(tmp_path)
    assert before
    assert {p: after[p] for p in before} == before                                # nothing that was there was written again

def test_killed_inside_the_base_and_run_again(shell, whole, tmp_path):
    "SIGKILL in mid-training of the first stage: it goes on from its checkpoint, and the last stage has the same digits."
    args = ['train', 'FMMRec', 'toy', *FEW, '--out', tmp_path, '--ckpt-seconds', '0']
    p = subprocess.Popen(command(*args), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try: wait_for(lambda: list((tmp_path/'runs').glob('.*.ckpt.safetensors')), p)
    finally: p.send_signal(signal.SIGKILL); p.wait()
    assert not list((tmp_path/'runs').glob('[!.]*'))                              # no stage is finished
    again = shell(*args, '--json')
    assert figures(again) == figures(whole[1])
    base = next(x for x in again['stages'] if x['stage'] == 'base')
    assert store.read(base['folder'])['resumed_from'] > 0

def test_whoever_needs_a_stage_shares_it(shell, whole):
    out, row, done = whole
    before = stamps(out)
    base = next(x['folder'] for x in done if x['stage'] == 'base')
    for name in ('AL', 'CAL', 'FairGo', 'LEACE'):
        other = shell('train', name, 'toy', *FEW, '--seed', 1, '--out', out, '--json')   # the base is that of all seeds
        assert [(x['stage'], x['was']) for x in other['stages']] == [('base', 'read'), ('filters', 'made')], name
        assert other['stages'][0]['folder'] == base and stages.known_as(other) == name
    after = stamps(out)
    assert {p: after[p] for p in before} == before

def test_every_command_takes_its_run(shell, whole):
    out, row, _ = whole
    shell('train', 'CAL', 'toy', *FEW, '--out', out)
    assert shell('evaluate', row['run'][:8], '--out', out, '--json')['same']
    items = [i['item'] for i in shell('recommend', row['run'], '--user', 5, '-k', 5, '--out', out, '--json')['items']]
    model, data, _ = store.load_run(row['folder'])
    s = model.scores(torch.tensor([5]))[0].detach()
    seen = torch.cat([data.train, data.valid], 1)
    s[seen[1][seen[0] == 5]] = -torch.inf
    assert items == s.topk(5).indices.tolist()
    doc = shell('audit', row['run'], '--attribute', 'gender', '--epochs', 2, '--seeds', 1, '--out', out, '--json')
    assert {r['view'] for r in doc['leakage']} == {'explicit', 'implicit'}
    cal = shell('train', 'CAL', 'toy', *FEW, '--out', out, '--json')
    rows = shell('compare', cal['run'], row['run'], '--out', out, '--json')['rows']
    assert {r['model'] for r in rows} == {'CAL', 'FMMRec'}
    listed = {m['name']: m for m in shell('list', '--json')['models']}
    assert set(stages.STAGED) <= set(listed) and 'single=True' in listed['AL']['settings']

def test_a_wrong_name_lists_what_there_is(shell):
    err = shell('train', 'FMMRek', 'toy', code=2)
    assert all(name in err for name in (*MODELS, *stages.STAGED)) and err.count('\n') == 1

def test_a_run_of_ones_own_is_a_base(shell, tmp_path):
    mf = shell('train', 'MFBPR', 'toy', '-p', 'd=8', '-p', 'epochs=3', '--out', tmp_path, '--json')
    al = shell('train', 'AL', 'toy', '--base', mf['run'][:8], *FEW[:2], '--out', tmp_path, '--json')
    assert [x['stage'] for x in al['stages']] == ['filters'] and json.loads(al['settings'])['base'].startswith('MFBPR-8-')
    other = shell('train', 'MFBPR', 'smoke', '-p', 'd=8', '-p', 'epochs=1', '--out', tmp_path, '--json')
    assert 'another version' in shell('train', 'AL', 'toy', '--base', other['run'], *FEW[:2], '--out', tmp_path, code=2)
