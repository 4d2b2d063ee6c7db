"""Full disks, folders that may not be written, files cut off or altered, a clock that goes back, and processes that share a store."""
import json, os, re, signal, sys, time
from pathlib import Path
import pandas as pd, pytest, torch
from causalmmr import cli, compare, pages, store, tune as tuning
from causalmmr.data import BadInput
from causalmmr.models.classic import MFBPR
from conftest import MANY

HP = dict(d=8, epochs=4, lr=.02, batch=256)
WORDS = ['train', 'MFBPR', 'toy', *(w for k, v in HP.items() for w in ('-p', f'{k}={v}')), '--ckpt-seconds', '0', '--json']

@pytest.fixture(scope='module')
def toy(): return store.dataset('toy')

@pytest.fixture(scope='module')
def want(toy, tmp_path_factory): return figures(store.run(MFBPR, toy, out=tmp_path_factory.mktemp('sound'), progress=False, **HP))

def figures(row): return {k: v for k,v in row.items() if '@' in k}
def again(toy, out, **kw): return figures(store.run(MFBPR, toy, out=out, progress=False, **HP, **kw))

def one_sentence(said):
    line = said.strip().split('\n')[-1].split('\r')[-1]
    assert 'Traceback' not in said and re.fullmatch(r'causalmmr: .+\.', line), said
    return line

# --- the disk

@pytest.mark.parametrize('most', [0, 4096, 20_000] + ([1, 100, 1000, 10_000, 30_000, 40_000, 50_000] if MANY else []))
def test_a_full_disk(child, tmp_path, toy, want, most, tally):
    "No file may grow beyond `most` bytes, as on a disk with so much room."
    import resource
    def full():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    read, write = os.pipe()                                          # what is said goes through a pipe: a file may not grow
    p = child(lambda: (os.dup2(write, 2), cli.main([*WORDS, '--out', str(tmp_path)]))[1], before=full)
    os.close(write)
    with open(read) as f: said = f.read()
    code = p.wait()
    assert code in (0, 2), said
    if code: one_sentence(said)
    assert code or most > 4096
    assert again(toy, tmp_path) == want                              # there is room again
    tally['full disks'] += 1

@pytest.mark.parametrize('words', [WORDS, ['tune', 'MFBPR', 'toy', '--trials', '1'], ['reproduce', 'classic'], ['data', 'convert', 'toy', 'made']])
def test_a_folder_that_may_not_be_written(child, anybodys, words):
    closed = [p for p in (Path(sys.prefix), *Path(sys.prefix).parents, *Path(cli.__file__).parents) if not p.stat().st_mode & 0o001]
    if os.geteuid() == 0 and closed: pytest.skip(f'root, and another user may not enter {closed[0]}, where Python or the package lies')
    os.chmod(anybodys, 0o555)
    user = (lambda: os.setuid(65534)) if os.geteuid() == 0 else lambda: None     # root may write everywhere
    said = anybodys.with_name(anybodys.name+'.said')
    words = [w if w != 'made' else str(anybodys/'made') for w in words] + ([] if 'convert' in words else ['--out', str(anybodys/'out')])
    try:
        code = child(lambda: cli.main(words), out=str(said), before=user).wait()
        assert code == 2 and 'ermission denied' in one_sentence(said.read_text())
    finally: said.unlink(missing_ok=True); os.chmod(anybodys, 0o755)

# --- files cut off, emptied, altered

def emptied(b, dice): return b''
def cut(b, dice): return b[:dice.randrange(len(b))]
def turned(b, dice):
    "One bit."
    k = dice.randrange(8*len(b))
    return b[:k//8] + bytes([b[k//8] ^ 1 << k%8]) + b[k//8+1:]
WAYS = [emptied] + [cut]*(10 if MANY else 1) + [turned]*(20 if MANY else 1)

def damage(path, way, dice): path.write_bytes(way(path.read_bytes(), dice))

def test_files_of_a_run(toy, want, tmp_path, dice, tally, capfd):
    store.run(MFBPR, toy, out=tmp_path, progress=False, **HP)
    (folder,) = (tmp_path/'runs').glob('[!.]*')
    for name in store.FILES:
        for way in WAYS:
            damage(folder/name, way, dice)
            assert again(toy, tmp_path) == want and store.checked(folder), (name, way)
            assert capfd.readouterr().err.count('is made again') <= 1         # once, or not at all where the bit meant nothing
            tally['damaged files'] += 1

def test_a_flipped_bit_in_weights_is_never_loaded(toy, tmp_path, dice, tally):
    folder = Path(store.run(MFBPR, toy, out=tmp_path, progress=False, **HP)['folder'])
    sound = (folder/'model.safetensors').read_bytes()
    for _ in range(200 if MANY else 20):
        (folder/'model.safetensors').write_bytes(turned(sound, dice))
        with pytest.raises(BadInput, match='checksum'): store.load_run(folder)
        tally['flipped bits found'] += 1

@pytest.mark.parametrize('way', WAYS[:2] + WAYS[-1:])
def test_a_checkpoint(toy, want, tmp_path, dice, way, capfd):
    store.run(MFBPR, toy, out=tmp_path, progress=False, ckpt_seconds=0, halt=lambda at: at.epoch == 2, **HP)
    (ckpt,) = (tmp_path/'runs').glob('.*.ckpt.safetensors')
    damage(ckpt, way, dice)
    assert again(toy, tmp_path) == want
    assert capfd.readouterr().err.count('is made again') == 1 and len(list((tmp_path/'runs').glob('.*.damaged1'))) == 1

def three(n): return dict(x=torch.arange(float(n)), t=pd.DataFrame(dict(a=[1.5]*n)))

def test_what_is_kept(tmp_path, dice, tally):
    store.kept('demo', three, 5, out=tmp_path)
    (folder,) = (tmp_path/'kept').glob('[!.]*')
    for name in ('value.json', 'tensors.safetensors', *(p.name for p in folder.glob('*.parquet'))):
        for way in WAYS:
            damage(folder/name, way, dice)
            got = store.kept('demo', three, 5, out=tmp_path)
            assert got['x'].tolist() == [0, 1, 2, 3, 4] and got['t'].a.tolist() == [1.5]*5
            tally['damaged files'] += 1

def line(name): return pd.DataFrame(dict(dataset=[name], value=[1.]))

@pytest.mark.parametrize('way', [emptied, cut])
def test_a_table(tmp_path, dice, way, capfd):
    compare.save_table(line('a'), tmp_path, 'one')
    damage(tmp_path/'one.parquet', way, dice)
    compare.save_table(line('b'), tmp_path, 'one')
    assert pd.read_parquet(tmp_path/'one.parquet').dataset.tolist() == ['b'] and (tmp_path/'.one.parquet.damaged1').exists()
    assert capfd.readouterr().err.count('is made again') == 1

@pytest.mark.parametrize('text', ['', '[', '{}', '[1]', '[{"model": 1, "dataset": 2}]', '{"a": 1}', 'null', '"x"'])
def test_remembered_settings(tmp_path, text, capfd):
    p = tmp_path/'settings.json'
    p.write_text(text)
    if text != '{}':
        with pytest.raises(BadInput, match='settings.json'): tuning.remembered(p)
    tuning.remember(dict(model='A', dataset='b', chosen={}), p)
    assert list(tuning.remembered(p)) == [('A', 'b')]

@pytest.mark.parametrize('name', ['settings.json', 'campaign.csv', 'published.csv', 'classic.parquet'])
def test_results_of_the_repository(tmp_path, monkeypatch, name):
    "What git keeps is not set aside: one sentence names it."
    (tmp_path/'nbs'/'tables').mkdir(parents=True); (tmp_path/'results').mkdir()
    monkeypatch.setenv('CAUSALMMR_TABLES', str(tmp_path/'nbs'/'tables'))
    from causalmmr import campaign
    for raw in (b'', b'\x00\xff\xfe half', b'PAR1', b'"'):
        (tmp_path/'results'/name).write_bytes(raw)
        with pytest.raises(BadInput, match=name):
            dict(zip(('settings.json', 'campaign.csv', 'published.csv', 'classic.parquet'), (tuning.remembered, campaign.steps, lambda: pages.published('baby-swapped'), lambda: pages.committed('classic'))))[name]()
        assert (tmp_path/'results'/name).read_bytes() == raw

def test_a_study(toy, tmp_path, dice, capfd):
    pytest.importorskip('optuna', reason='a search needs Optuna')
    def search():
        line, tried = tuning.tune(MFBPR, toy, trials=2, out=tmp_path, progress=False, fixed=dict(epochs=2, eval_every=1))
        tuning.storage_at.cache_clear()                                     # as a new process would find it
        return line['chosen'], line['figure'], tried.value.tolist()
    first = search()
    (db,) = (tmp_path/'studies').glob('*.db')
    for way in (emptied, lambda b, d: b[:len(b)//2], lambda b, d: b[:5000] + b'\xff'*4000 + b[9000:], lambda b, d: b'no database' + b[11:]):
        damage(db, way, dice)
        capfd.readouterr()
        assert search() == first
    assert len(list((tmp_path/'studies').glob('.*.damaged*'))) == 3          # an empty file is a new database

# --- clocks, systems, others

def test_a_clock_that_goes_back(toy, want, tmp_path, monkeypatch):
    now = iter(range(10**9, 0, -1000))
    monkeypatch.setattr(time, 'time', lambda: float(next(now)))
    row = store.run(MFBPR, toy, out=tmp_path, progress=False, ckpt_seconds=0, **HP)
    assert figures(row) == want and row['seconds'] >= 0
    assert store.kept('demo', three, 2, out=tmp_path)['x'].tolist() == [0, 1]
    (value,) = (tmp_path/'kept').glob('demo-*/value.json')
    assert json.loads(value.read_text())['seconds'] >= 0

def test_a_system_without_locks(toy, want, tmp_path, monkeypatch):
    monkeypatch.setattr(store, 'fcntl', None)
    (tmp_path/'runs').mkdir(); (tmp_path/'runs'/'.another.1.tmp').mkdir()
    assert again(toy, tmp_path) == want == again(toy, tmp_path, fresh=True)
    assert (tmp_path/'runs'/'.another.1.tmp').exists()                       # whose it is cannot be told

@pytest.mark.parametrize('n', [2, 8] if MANY else [2])
def test_processes_that_share_a_store_and_a_study(child, toy, want, tmp_path, n):
    pytest.importorskip('optuna', reason='a search needs Optuna')
    def work(k):
        row = store.run(MFBPR, toy, out=tmp_path, progress=False, ckpt_seconds=0, **HP)
        line, _ = tuning.tune(MFBPR, toy, trials=3, out=tmp_path, progress=False, fixed=dict(epochs=2, eval_every=1))
        (tmp_path/f'answer{k}').write_text(json.dumps([figures(row), line['trials']]))
    all_of_them = [child(lambda: work(k), out=str(tmp_path/f'said{k}')) for k in range(n)]
    codes = [p.wait() for p in all_of_them]
    assert codes == [0]*n, [(tmp_path/f'said{k}').read_text()[-500:] for k in range(n)]
    answers = [json.loads((tmp_path/f'answer{k}').read_text()) for k in range(n)]
    assert all(a[0] == want and a[1] >= 3 for a in answers)
    (db,) = (tmp_path/'studies').glob('*.db')
    places = [t.params for t in tuning.study_at(db).get_trials(deepcopy=False)]
    assert len(places) == len({json.dumps(p, sort_keys=True) for p in places}) <= 3+n-1      # nothing was tried twice

def test_blocks_of_users_follow_the_bound(toy, monkeypatch):
    from causalmmr import train
    seen = []
    class Watching(MFBPR):
        def scores(self, u): seen.append(len(u)); return super().scores(u)
    monkeypatch.setattr(train, 'users_at_once', lambda n: 7)
    train.evaluate(Watching(toy, store.rng(0), d=4), toy)
    assert max(seen) == 7
