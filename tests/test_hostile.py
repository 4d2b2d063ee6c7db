"""No way in, and no word that ends in a traceback: each test has the attack, or the odd word, as its input."""
import json, os, pickle, struct, sys, warnings, zipfile
from pathlib import Path
import numpy as np, pandas as pd, pytest, torch
from causalmmr import cli as program, formats, store
from causalmmr.data import BadInput, replace
from causalmmr.files import read_array
from causalmmr.formats import load

class Attack:
    "Unpickled, it makes a folder."
    def __init__(self, path): self.path = path
    def __reduce__(self): return (os.mkdir, (str(self.path),))

# --- readers and pickles

def object_npy(p, x): np.save(p, np.array([x], object), allow_pickle=True)
def object_npz(p, x): np.savez(p, x=np.array([x], object))
def torch_file(p, x): torch.save(x, p)
def bare_pickle(p, x): p.write_bytes(pickle.dumps(x))

@pytest.mark.parametrize('name, write', [('a.npy', object_npy), ('a.npz', object_npz), ('a.pt', torch_file), ('a.pkl', bare_pickle), ('a.npy', bare_pickle), ('a.pt', bare_pickle)])
def test_no_array_is_unpickled(tmp_path, name, write):
    write(tmp_path/name, Attack(tmp_path/'evil'))
    with pytest.raises(BadInput, match='a\\.'): read_array(tmp_path/name)
    assert not (tmp_path/'evil').exists()

def test_no_checkpoint_is_unpickled(tmp_path):
    what = store.identity(program.find_model('MFBPR'), store.dataset('toy'), 0, dict(d=4, epochs=1))
    (tmp_path/'runs').mkdir()
    ckpt = tmp_path/'runs'/f".{what['run']}.ckpt.safetensors"
    ckpt.write_bytes(pickle.dumps(Attack(tmp_path/'evil')))
    store.run(program.find_model('MFBPR'), store.dataset('toy'), out=tmp_path, d=4, epochs=1, progress=False)
    assert not (tmp_path/'evil').exists()

def test_metadata_of_parquet_run_nothing(tmp_path):
    "pandas' metadata and pyarrow's old extension type have both held pickles."
    import pyarrow as pa, pyarrow.parquet as pq
    evil = pickle.dumps(Attack(tmp_path/'evil'))
    fields = [pa.field('userID', pa.int64(), metadata={b'ARROW:extension:name': b'arrow.py_extension_type', b'ARROW:extension:metadata': evil}), pa.field('itemID', pa.int64())]
    about = {b'pandas': json.dumps(dict(index_columns=[], columns=[dict(name='userID', pandas_type='object', numpy_type='object', metadata=dict(pickle=evil.hex()))])).encode(), b'pickle': evil}
    t = pa.table([pa.array([0, 0, 1, 1]), pa.array([0, 1, 0, 1])], schema=pa.schema(fields, metadata=about))
    pq.write_table(t, tmp_path/'inter.parquet')
    with warnings.catch_warnings(action='ignore'): assert load(tmp_path).n_users == 2
    assert not (tmp_path/'evil').exists()

# --- archives, names, downloads, pictures

def test_an_archive_cannot_climb_out(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path/'evil.zip', 'w') as z:
        z.writestr('../../climbed', 'x')
        z.writestr('/tmp/absolute-of-an-archive', 'x')
        link = zipfile.ZipInfo('link'); link.external_attr = 0o120777 << 16; z.writestr(link, '/etc')
        z.writestr('link/passwd-of-an-archive', 'x')
    monkeypatch.setattr(formats, '_download', lambda url, file, progress: Path(file).write_bytes((tmp_path/'evil.zip').read_bytes()))
    monkeypatch.setitem(formats.ORIGINALS, 'evil', dict(url='https://example.org/evil.zip', hash=None, folder=''))
    to = tmp_path/'a'/'b'/'c'
    try: formats.fetch('evil', to)
    except BadInput: pass                                       # it may be refused as a whole,
    outside = [p for p in tmp_path.rglob('*') if to not in p.parents and p not in (to, *to.parents, tmp_path/'evil.zip')]
    assert not outside and not Path('/tmp/absolute-of-an-archive').exists() and not Path('/etc/passwd-of-an-archive').exists()
    assert not [p for p in to.rglob('*') if p.is_symlink()]     # but it makes nothing elsewhere, and no link

@pytest.mark.parametrize('name', ['../../evil', '/evil', 'a/../../evil', 'a\\b', '..', '.', '', ' '])
def test_a_data_set_cannot_call_itself_a_path(tmp_path, name):
    pd.DataFrame(dict(userID=[0, 0, 1, 1], itemID=[0, 1, 0, 1])).to_parquet(tmp_path/'inter.parquet')
    (tmp_path/'about.json').write_text(json.dumps(dict(name=name)))
    with pytest.raises(BadInput, match='name'): load(tmp_path)

@pytest.mark.parametrize('name', ['../evil', 'runs/../../evil', '..', '*', '[a-z]', '/etc'])
def test_a_run_cannot_be_a_path_or_a_pattern(tmp_path, name):
    for folder in ('evil', 'out/runs/abcdef'): (tmp_path/folder).mkdir(parents=True)
    if Path(name).is_dir(): return                                # a folder that the user names is the user's to name
    with pytest.raises(BadInput): program.find_run(name, tmp_path/'out')

def test_a_picture_of_too_many_pixels_is_not_unpacked(tmp_path):
    from causalmmr.encode import MOST_PIXELS, picture
    from PIL import Image
    Image.new('1', (8, 8)).save(tmp_path/'bomb.png')
    raw = bytearray((tmp_path/'bomb.png').read_bytes())
    import zlib
    raw[16:24] = struct.pack('>II', 60_000, 60_000)
    raw[29:33] = struct.pack('>I', zlib.crc32(bytes(raw[12:29])))
    (tmp_path/'bomb.png').write_bytes(raw)
    assert 60_000**2 > MOST_PIXELS
    with pytest.raises(BadInput, match='pixels'): picture(tmp_path/'bomb.png')

@pytest.mark.parametrize('url', ['http://example.org/x.zip', 'ftp://example.org/x.zip', 'file:///etc/passwd', 'http://127.0.0.1.example.org/x', 'https:/x'])
def test_a_download_in_the_open_is_refused(url, tmp_path):
    with pytest.raises(ValueError, match='not https'): formats._download(url, tmp_path/'x')
    assert not (tmp_path/'x').exists()

def test_a_download_led_into_the_open_is_refused(tmp_path, monkeypatch):
    import requests
    class Answer:
        def __init__(self, url, history=()): self.url, self.history, self.headers = url, history, {}
        def __enter__(self): return self
        def __exit__(self, *a): pass
        def raise_for_status(self): pass
        def iter_content(self, n): yield b'forged'
    monkeypatch.setattr(requests, 'get', lambda url, **k: Answer('https://example.org/x', [Answer('https://a.org'), Answer('http://b.org')]))
    with pytest.raises(ValueError, match='http://b.org'): formats._download('https://a.org', tmp_path/'x')
    assert not (tmp_path/'x').read_bytes()

# --- reviews and prices of 2014

def amazon(folder, more=(), meta=''):
    lines = [json.dumps(dict(reviewerID=f'u{u}', asin=f'a{i}')) for u in range(6) for i in range(6)]
    (folder/'reviews_Toys_5.json').write_text('\n'.join([*lines, *more]))
    if meta: (folder/'meta_Toys.json').write_text(meta)
    return load(folder)

def test_blank_lines_of_reviews_say_nothing(tmp_path):
    plain = amazon(tmp_path)
    assert amazon(tmp_path, ['', '   ', '']).fingerprint == plain.fingerprint

@pytest.mark.parametrize('reviewer', ['null', '5', '["u"]', '""', '{}', 'true'])
def test_a_reviewer_is_a_text(tmp_path, reviewer):
    with pytest.raises(BadInput, match='line 37'): amazon(tmp_path, [f'{{"reviewerID": {reviewer}, "asin": "a1"}}'])

def test_nesting_without_end_is_a_sentence(tmp_path):
    with pytest.raises(BadInput, match='line 37'): amazon(tmp_path, ['['*100_000])

def test_prices_that_are_no_numbers_are_empty_and_told(tmp_path):
    said = dict(a0="'$3.50'", a1="'—'", a2='None', a3='4', a4="'$2.99 - $7.99'", a5="'1,299.99'")
    data = amazon(tmp_path, meta='\n'.join(f"{{'asin': '{a}', 'price': {p}}}" for a, p in said.items())+'\n\n')
    price = dict(zip(data.items.asin, data.items.price))
    assert {a: p for a, p in price.items() if p == p} == dict(a0=3.5, a3=4., a5=1299.99)
    (note,) = [n for n in data.notes if 'price' in n]
    assert note == "the price of 2 items is no number, such as '—', and is left empty"

def test_a_film_called_NA_has_its_title(tmp_path):
    (tmp_path/'ratings.dat').write_text('\n'.join(f'{u}::{i}::5::1' for u in range(1, 8) for i in range(1, 8)))
    (tmp_path/'movies.dat').write_text('\n'.join(f"{i}::{'NA' if i == 2 else 'nan' if i == 3 else f'T{i}'}::Drama" for i in range(1, 8)))
    assert load(tmp_path).items.title.tolist()[:3] == ['T1', 'NA', 'nan']

# --- the folder where one stands, and names in files

TRAP = "import os\nos.mkdir({!r})\nfrom causalmmr.models.classic import MFBPR\nclass Mine(MFBPR): 'Mine.'\n"

@pytest.fixture
def trap(tmp_path, monkeypatch):
    "A folder whose modules make another folder when they are imported."
    d = tmp_path/'downloaded'; d.mkdir()
    for name in ('triton', 'tabulate', 'evil_of_a_file'): (d/f'{name}.py').write_text(TRAP.format(str(tmp_path/'evil')))
    monkeypatch.chdir(d)
    monkeypatch.setattr(sys, 'path', [p for p in sys.path if p])
    return d, tmp_path/'evil'

def test_a_class_named_in_a_file_is_not_imported(trap, capfd):
    d, evil = trap
    row = store.run(program.find_model('MFBPR'), store.dataset('toy'), out=d/'out', d=4, epochs=1, progress=False)
    p = Path(row['folder'])/'run.json'
    info = {k: v for k,v in json.loads(p.read_text()).items() if k != 'check'}
    p.write_text(json.dumps(info | dict(model='evil_of_a_file:Mine')))
    for words in (['evaluate', '.'], ['recommend', '.', '--user', '1'], ['audit', '.', '--attribute', 'gender']):
        os.chdir(row['folder'])
        (Path.cwd()/'evil_of_a_file.py').write_text((d/'evil_of_a_file.py').read_text())
        assert program.main(words) == 2
        assert '--model evil_of_a_file:Mine' in capfd.readouterr().err and not evil.exists()
    assert os.getcwd() not in sys.path
    assert program.main(['evaluate', '.', '--model', 'evil_of_a_file:Mine']) == 0           # named by the user, it is imported, and that is said
    assert evil.exists() and 'evil_of_a_file:Mine is taken from' in capfd.readouterr().err
    del sys.modules['evil_of_a_file']

def test_modules_of_a_downloaded_folder_are_not_imported(trap):
    d, evil = trap
    formats.convert(store.dataset('toy'), d/'set', 'parquet')
    before = list(sys.path)
    for words in (['train', 'MFBPR', 'set', '-p', 'd=4', '-p', 'epochs=1', '--out', 'out'], ['data', 'check', '.'], ['list']): program.main(words)
    assert sys.path == before and not evil.exists()                                          # what is not on the path is not found by torch or pandas

def test_a_kernel_imports_nothing_from_there(trap, tmp_path, monkeypatch):
    import nbformat
    from causalmmr import reproduce
    from test_reproduce import PARAMETERS
    d, evil = trap
    shelf = tmp_path/'shelf'; shelf.mkdir()
    body = "import importlib.util, pathlib\ntry: import triton\nexcept ImportError: pass\npathlib.Path(out_dir, 'ran').touch()"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(PARAMETERS, metadata=dict(tags=['parameters'])), nbformat.v4.new_code_cell(body)]), shelf/'t.ipynb')
    monkeypatch.setenv('CAUSALMMR_TABLES', str(shelf))
    rows, _ = reproduce.reproduce(['t'], out_dir=tmp_path/'out', datasets=['toy'], echo=lambda s: None)
    assert rows[0]['status'] == 'done' and (tmp_path/'out'/'ran').exists() and not evil.exists()
    assert 'PYTHONSAFEPATH=1' in reproduce.snakefile(reproduce.plan(['t'], out_dir=tmp_path, datasets=['toy']))

# --- titles are text

EVIL = "<script>fetch('//evil')</script><img src=x onerror=alert(1)>"

def test_titles_with_html_are_text_in_reports(tmp_path):
    import nbformat
    from causalmmr import reproduce
    from causalmmr.serve import audit_page
    from causalmmr.tables import Shown
    t = pd.DataFrame({EVIL: [EVIL], 'users': [1.5]})
    live = lambda page: '<script>fetch' in page or '<img src=x onerror' in page
    assert live(EVIL) and not live(reproduce.in_html(t)) and not live(reproduce.in_html(EVIL))
    assert not live(audit_page(EVIL, [dict(attribute=EVIL, groups=pd.DataFrame(dict(group=[EVIL], users=[1], recall=[.5])), difference=t, leakage=t, notes=[EVIL])], [EVIL]))
    shown = nbformat.v4.new_output('display_data', {'text/markdown': Shown([EVIL, t])._repr_markdown_(), 'text/plain': EVIL})
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell('x', outputs=[shown])]), tmp_path/'t.ipynb')
    page = reproduce.as_html(tmp_path/'t.ipynb').read_text()
    assert not live(page) and 'alert(1)' in page
    assert "default-src 'none'" in page and "default-src 'none'" in reproduce.head_of('x')         # and if it were live, it would run and fetch nothing

@pytest.mark.parametrize('title', ['Alien [import]', 'Ratio :100:', 'x [/b] y', 'a\x1b[2Jb', '\x9b2J', 'two\nlines'])
def test_titles_reach_a_terminal_as_text(title, capfd):
    program.answer(None, False, title, program.grid(pd.DataFrame(dict(title=[title]))))
    program.tables_.note(title)
    out, err = capfd.readouterr()
    shown = program.as_text(title).plain
    assert out.count(shown) == 2 and err == shown+'\n' and not set('\x1b\x9b') & set(out+err)

# --- odd numbers and words: one sentence, before work starts

TRAIN = ['train', 'MFBPR', 'toy']

@pytest.mark.parametrize('words, says', [
    ([*TRAIN, '-p', 'd='+'9'*20], 'd must be below'), ([*TRAIN, '-p', 'd=100000000000'], 'd must be below'), ([*TRAIN, '-p', 'd=2000000000'], 'GiB of memory'),
    ([*TRAIN, '-p', 'reg='+'9'*400], 'reg must be below'), ([*TRAIN, '--seed', '18446744073709551616'], 'seed'), ([*TRAIN, '-p', 'by=recall@²'], 'recall@²'), ([*TRAIN, '-p', 'by=recall@020'], 'recall@020'),
    ([*TRAIN, '-p', 'by=recall@1000000'], 'at most 120 items'), (['train', '.foo:X', 'toy'], '.foo:X'), (['train', 'MFBPR', 'baby', '--data', '~nosuch'], '~nosuch'), (['train', 'MFBPR', '~nosuch/x'], '~nosuch'),
    ([*TRAIN, '--out', '/tmp/a\udcffb'], 'no UTF-8'), (['train', 'PaInvRL', 'toy', '-p', 'search={"f_restarts": 9223372036854775808}'], 'f_restarts must be below'), (['data', 'fetch', 'movielens_1m', '~nosuch/x'], '~nosuch'),
    (['tune', 'MFBPR', 'toy', '--trials', '1', '--seed', '18446744073709551616'], 'seed'), (['reproduce', 'classic', '--models', 'MFBPR;LightGNC'], 'LightGNC')])
def test_odd_numbers_and_words(words, says, capfd, tmp_path):
    if '--out' not in words and words[0] != 'data': words = [*words, '--out', str(tmp_path)]
    assert program.main(words) == 2
    out, err = capfd.readouterr()
    assert out == '' and err.startswith('causalmmr: ') and err.count('\n') == 1 and says in err, err
    assert not list(tmp_path.rglob('*.json'))

def test_memory_that_runs_out_on_the_way_is_a_sentence(monkeypatch, capfd):
    def more(*a, **k): raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to allocate 80000000000000 bytes.")
    monkeypatch.setattr(program, 'run', more)
    assert program.main(TRAIN) == 2 and 'more memory than there is' in capfd.readouterr().err
    monkeypatch.setattr(program, 'run', lambda *a, **k: (_ for _ in ()).throw(RuntimeError('another')))
    with pytest.raises(RuntimeError, match='another'): program.main(TRAIN)                  # a fault of ours stays one

def test_a_file_cannot_ask_for_memory(tmp_path, capfd):
    row = store.run(program.find_model('MFBPR'), store.dataset('toy'), out=tmp_path, d=4, epochs=1, progress=False)
    p = Path(row['folder'])/'run.json'
    info = {k: v for k,v in json.loads(p.read_text()).items() if k != 'check'}
    p.write_text(json.dumps(info | dict(settings=info['settings'] | dict(d=2*10**9))))
    assert program.main(['evaluate', row['folder']]) == 2 and 'GiB of memory' in capfd.readouterr().err

# --- what papermill is given, and what --help promises

def test_a_parameter_that_papermill_alone_knows_is_refused(tmp_path, root, no_kernel):
    import papermill
    with pytest.raises(papermill.PapermillExecutionError, match="classic has no parameter 'seedz'"):
        papermill.execute_notebook(root/'nbs'/'tables'/'classic.ipynb', tmp_path/'o.ipynb', dict(scale='smoke', dataset='toy', seedz=5, out_dir=str(tmp_path)), kernel_name='python3', progress_bar=False, log_output=False)

def test_semicolons_and_commas_name_the_same_classes(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(program.tables_, 'reproduce', lambda names, *a, **k: asked.append(program.tables_.plan(names, out_dir=tmp_path, models=k['models'])[0].params['models']) or ([], tmp_path))
    for models in ('MFBPR;LightGCN', 'MFBPR,LightGCN'):
        with pytest.raises(KeyError): program.main(['reproduce', 'classic', '--models', models, '--out', str(tmp_path)])     # no rows: the rest of the command has nothing to show
    assert asked == ['MFBPR,LightGCN']*2

@pytest.mark.parametrize('column', [['a'], np.array([1, 2]), dict(a=1), {1}])
def test_lists_are_no_groups_in_a_crossing(column):
    from causalmmr.serve import crossed
    toy = store.dataset('toy')
    with pytest.raises(BadInput, match='x holds lists'): crossed(replace(toy, users=toy.users.assign(x=[column]*toy.n_users)), ['gender', 'x'])
