"""Every loader and every command, with whatever comes: exit codes 0, 1, 2, 130 only, one sentence on 2, and never a traceback."""
import contextlib, functools, io, json, re, shutil, warnings
import numpy as np, pandas as pd, pytest
hypothesis = pytest.importorskip('hypothesis', reason='fuzzing needs hypothesis, which is among the development packages')
from hypothesis import HealthCheck, Phase, given, settings, strategies as st
from causalmmr import cli, reproduce, store
from causalmmr.data import BadInput, MMData, check, group_sizes
from causalmmr.files import not_taken
from causalmmr.formats import ORIGINALS, load
from conftest import MANY, TALLY

def quick(n, many): return settings(max_examples=many if MANY else n, deadline=None, derandomize=True, database=None, phases=[Phase.generate] if not MANY else [Phase.generate, Phase.shrink],
                                    suppress_health_check=list(HealthCheck))

# --- loaders: a folder of each format, with some of its bytes or values changed

def pairs(): return np.array([(u, i) for u in range(8) for i in range(8) if (u*3+i)%3])

def as_parquet(d):
    u, i = pairs().T
    pd.DataFrame(dict(userID=u, itemID=i, x_label=np.where(i == 1, 1, np.where(i == 2, 2, 0)))).to_parquet(d/'inter.parquet')
    pd.DataFrame(dict(itemID=range(8), title=[f'T{k}' for k in range(8)])).to_parquet(d/'items.parquet')
    pd.DataFrame(dict(userID=range(8), gender=[0, 1]*4)).to_parquet(d/'users.parquet')
    np.savez(d/'image_feat.npz', x=np.ones((8, 2), 'float32'), has=np.ones(8, bool))
    (d/'about.json').write_text(json.dumps(dict(name='p', n_users=8, n_items=8, notes=['n'], features=dict(v='image_feat'))))
def as_mmrec(d):
    u, i = pairs().T
    pd.DataFrame(dict(userID=u, itemID=i, x_label=np.where(i == 1, 1, np.where(i == 2, 2, 0)))).to_csv(d/'m.inter', sep='\t', index=False)
    np.save(d/'image_feat.npy', np.ones((8, 2)))
def as_movielens(d):
    (d/'ratings.dat').write_text('\n'.join(f'{u}::{i}::5::{u+i}' for u, i in pairs()))
    (d/'users.dat').write_text('\n'.join(f'{u}::F::25::3::12345' for u in range(8)))
    (d/'movies.dat').write_text('\n'.join(f'{i}::Film {i}::Drama|Horror' for i in range(8)))
def as_amazon(d):
    (d/'reviews_Toys_5.json').write_text('\n'.join(json.dumps(dict(reviewerID=f'u{u}', asin=f'a{i}')) for u in range(6) for i in range(6)))
    (d/'meta_Toys.json').write_text('\n'.join(str(dict(asin=f'a{i}', price=1.5, salesRank={'Toys': i}, categories=[['A', 'B']], title='t')) for i in range(6)))
def as_lattice(d):
    for k, s in enumerate(('train', 'val', 'test')): (d/f'{s}.json').write_text(json.dumps({str(u): [int(i) for v, i in pairs() if v == u and (i > 2 if k == 0 else i == k)] for u in range(8)}))
def as_dmrl(d):
    u, i = pairs().T
    for s, rows in (('train', i > 2), ('test', i <= 2)): pd.DataFrame(dict(userID=u[rows], itemID=i[rows], asin=[f'a{k}' for k in i[rows]])).to_csv(d/f'{s}.csv', index=False)
def as_mmgcn(d):
    p = pairs(); p = p + [0, 8]
    np.save(d/'train.npy', p[p[:, 1] > 10])
    for s, k in (('val', 9), ('test', 10)): np.save(d/f'{s}_full.npy', np.array([[u, k] for u in range(8)]))
def as_diffmm(d):
    import pickle, scipy.sparse as sp
    u, i = pairs().T
    for s, rows in (('trn', i > 2), ('val', i == 1), ('tst', i == 2)): (d/f'{s}Mat.pkl').write_bytes(pickle.dumps(sp.coo_matrix((np.ones(rows.sum()), (u[rows], i[rows])), (8, 8))))
def as_microlens(d):
    u, i = pairs().T
    pd.DataFrame(dict(user=u, item=i, timestamp=u+i)).to_csv(d/'x_pairs.csv', index=False)

FORMATS = [as_parquet, as_mmrec, as_movielens, as_amazon, as_lattice, as_dmrl, as_mmgcn, as_diffmm, as_microlens]
ODD = [b'', b'\x00', b'\xff\xfe', b'NA', b'nan', b'-1', b'1e400', b'99999999999999999999', b'\n\n', b'"', b'[', b'{', b'null', b'\xe2\x80\x94', b'\x1b[2J', b'::', b'\t', b',', b"'", b'True', b'../', b'\r']

def changed(raw, ops):
    "Bytes with some replaced, put in or taken out."
    for where, what, n in ops:
        at = int(where*len(raw))
        raw = raw[:at] + what + raw[at+n:]
    return raw

operations = st.lists(st.tuples(st.floats(0, 1), st.one_of(st.sampled_from(ODD), st.binary(max_size=4)), st.integers(0, 40)), min_size=1, max_size=3)

@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    made = {}
    for f in FORMATS:
        made[f] = tmp_path_factory.mktemp(f.__name__)
        f(made[f])
        assert len(load(made[f]).train[0]) > 5
    return made

@quick(80, 1200)
@given(st.sampled_from(FORMATS), st.floats(0, 1), operations)
def test_loaders(folders, tmp_path_factory, form, which, ops):
    d = tmp_path_factory.mktemp('fuzz')/'d'
    shutil.copytree(folders[form], d)
    files = sorted(d.iterdir())
    p = files[min(int(which*len(files)), len(files)-1)]
    p.write_bytes(changed(p.read_bytes(), ops))
    TALLY['fuzzed inputs'] += 1
    with warnings.catch_warnings(action='ignore'):
        try:
            made = load(d)
            assert isinstance(made, MMData)
            check(made); made.fingerprint; group_sizes(made); not_taken(d, made.n_items)
        except BadInput as e: assert str(e) and str(e).isprintable()
    shutil.rmtree(d.parent)

# --- commands

NUMBERS = ['0', '1', '-1', '2', '3', '²', '٣', '1e400', 'nan', 'inf', '9'*20, '9'*400, '2147483648', '18446744073709551616', '0x10', '1_0', '', ' ', 'x', 'None', 'True', '(1,2)', '[1]', "'a'", '1.5']
NAMES = ['toy', 'MFBPR', 'LightGCN', 'VBPR', 'nowhere', '.foo:X', 'os:getcwd', 'a:b:c', ':', '~nosuch', '~nosuch/x', '../x', '/', '.', '..', '*', '[b]x[/b]', 'x\x1b[2Jy', 'ä'*300, '\udcff', '-', '--', '%s', '{}', '$(x)', 'smoke']
KEYS = ['d', 'L', 'reg', 'epochs', 'batch', 'lr', 'patience', 'by', 'eval_every', 'n_neg', 'seed', 'tau', 'f_restarts', 'x', '']
METRICS = ['recall@20', 'recall@²', 'recall@020', 'recall@0', 'recall@1000000', 'recall@', '@20', 'luck@20', 'recall@-1', 'ndcg@50', 'recall@'+'9'*30]
number, name = st.sampled_from(NUMBERS), st.sampled_from(NAMES)
pair = st.builds('{}={}'.format, st.sampled_from(KEYS), st.one_of(number, st.sampled_from(METRICS), name))
def option(word, value): return st.tuples(st.just(word), value).map(list)
COMMANDS = {
    'train':     ([st.sampled_from(['MFBPR', 'LightGCN', 'VBPR', 'PaInvRL', 'EASE', *NAMES]), st.one_of(st.just('toy'), name)],
                  [option('-p', pair), option('--seed', number), option('--features', st.one_of(pair, name)), option('--device', st.one_of(st.just('cpu'), name)), option('--ckpt-seconds', number), option('--data', name)]),
    'tune':      ([st.sampled_from(['MFBPR', *NAMES]), name], [option('-p', pair), option('--minutes', st.sampled_from(['0', '-1', 'nan', 'x'])), option('--trials', st.sampled_from(['0', '-1', 'x', '²'])), option('--seed', number)]),
    'evaluate':  ([st.just('RUN')], [option('--dataset', name), option('--data', name), option('--features', pair), option('--model', name)]),
    'recommend': ([st.just('RUN')], [option('--user', st.one_of(number, name)), option('-k', number), option('--only', st.one_of(pair, st.sampled_from(['price<=2', 'x<y', '=', 'brand=']))), option('--like', pair), option('--weigh', pair),
                                     st.just(['--all']), st.just(['--why']), option('--to', name), option('--users-file', name), st.just(['--exclude-seen'])]),
    'audit':     ([st.just('RUN')], [option('--attribute', st.sampled_from(['gender', 'age', 'x', ''])), option('--cross', st.sampled_from(['gender,age', 'gender', ',', 'gender,x'])), option('--smallest', number), option('--small', name), option('--page', name)]),
    'compare':   ([st.just('RUN'), st.one_of(st.just('RUN'), name)], [option('--metric', st.sampled_from(METRICS))]),
    'reproduce': ([st.one_of(st.just('small'), name)], [option('--scale', st.sampled_from(['smoke', 'cpu', 'x'])), option('--seeds', number), option('--workers', st.sampled_from(['1', '0', '-1', 'x'])), option('--models', st.one_of(name, st.just('A;B'))), option('--dataset', name), option('--engine', name), option('--device', name)]),
    'data check': ([name], [option('--features', pair), option('--data', name)]),
    'data convert': ([name, name], [option('--format', name)]),
    'data import': ([name, st.just('--interactions'), name], [option('--items', name), option('--column', pair), option('--bins', pair), option('--core', number), option('--min-rating', number), option('--split', name), option('--decimal', name), option('--encoding', name)]),
    'data fetch': ([st.sampled_from(['nowhere', '', '\x1b']), name], []),
    'encode':    ([name], [option('--image-encoder', st.just('none')), option('--text-encoder', st.one_of(st.just('none'), name))]),
    'campaign':  ([st.just('--left')], [option('--list', name), option('--workers', number)]),
    'list':      ([], [option('--data', name)])}

@st.composite
def lines(draw):
    "A command line."
    command = draw(st.sampled_from(sorted(COMMANDS)))
    fixed, options = COMMANDS[command]
    words = [*command.split(), *(draw(a) for a in fixed)]
    for o in draw(st.lists(st.sampled_from(range(len(options))), max_size=3)) if options else []: words += draw(options[o])
    if command in ('train', 'evaluate', 'recommend', 'audit', 'compare', 'reproduce', 'tune'): words += ['--out', 'out']
    return words + draw(st.sampled_from([[], ['--json']]))

@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "A folder to stand in, with a run; what takes long is made short."
    from test_reproduce import PARAMETERS
    import nbformat
    d = tmp_path_factory.mktemp('place')
    row = store.run(cli.find_model('MFBPR'), store.dataset('toy'), out=d/'out', d=4, epochs=1, progress=False)
    shelf = d/'nbs'/'tables'; shelf.mkdir(parents=True)
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(PARAMETERS, metadata=dict(tags=['parameters']))]), shelf/'small.ipynb')
    patch, fit = pytest.MonkeyPatch(), store.fit
    patch.setenv('CAUSALMMR_TABLES', str(shelf))
    patch.delenv('CAUSALMMR_DATA', raising=False)
    patch.setattr(store, 'fit', functools.wraps(fit)(lambda model, data, epochs, eval_every, **kw: fit(model, data, epochs=1, eval_every=1, **kw)))
    patch.setattr(cli, 'leakage', lambda *a, **k: pd.DataFrame(columns=cli._COLUMNS))
    patch.setattr(cli, 'fetch', lambda name, *a, **k: (_ for _ in ()).throw(BadInput(f'no {name}')) if name not in ORIGINALS else None)
    patch.setattr(reproduce, 'local', lambda jobs, *a: [reproduce.row_of(j, 'kept') for j in jobs])
    patch.chdir(d)
    yield d, row['run']
    patch.undo()

def outcome(words):
    "Exit code and what was said; an exception that comes out is a traceback."
    o, e = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(o), contextlib.redirect_stderr(e), warnings.catch_warnings(action='ignore'): code = cli.main(list(words))
    said = e.getvalue()
    assert code in (0, 1, 2, 130), (words, code)
    assert '\x1b' not in said and 'Traceback' not in said
    if code == 2: assert re.fullmatch(r'causalmmr: .+\.', said.strip().split('\n')[-1].split('\r')[-1]), said
    if code == 0 and '--json' in words and '--help' not in words: json.loads(o.getvalue())
    return code

@quick(80, 1000)
@given(lines())
def test_commands(place, words):
    folder, run = place
    TALLY['fuzzed inputs'] += 1
    outcome([run if w == 'RUN' else w for w in words])
    for p in folder.iterdir():
        if p.name not in ('out', 'nbs'): shutil.rmtree(p) if p.is_dir() else p.unlink()

# --- runs: JSON of any shape

leaf = st.one_of(st.none(), st.booleans(), st.integers(), st.sampled_from([2**31, 2**63, 2**64, -1, 10**30]), st.floats(), st.text(max_size=4), st.just([]), st.just({}), st.just([[1]]))

@quick(40, 600)
@given(st.sampled_from(['run.json', 'metrics.json']), st.integers(0, 40), leaf, st.sampled_from(['evaluate', 'recommend', 'compare']))
def test_runs(place, name, which, value, command):
    folder, run = place
    TALLY['fuzzed inputs'] += 1
    copy = folder/'copy'
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder/'out'/'runs'/run, copy)
    for f in ('run.json', 'metrics.json'): # without their checksums, which would find everything
        d = json.loads((copy/f).read_text())
        d = {k: v for k,v in d.items() if k not in ('check', 'files')}
        if f == name:
            places = [(d, k) for k in d] + [(d[k], j) for k in d if isinstance(d[k], dict) for j in d[k]]
            at, key = places[which%len(places)]
            at[key] = value
        (copy/f).write_text(json.dumps(d))
    outcome(dict(evaluate=['evaluate', str(copy), '--json'], recommend=['recommend', str(copy), '--user', '1'], compare=['compare', str(copy), run, '--out', 'out'])[command])
    shutil.rmtree(copy)
