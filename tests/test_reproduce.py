"""Tables as papermill jobs: parameters arrive, failures stay alone, finished jobs are kept, Snakemake runs the same jobs."""
import importlib.util, json, re, shutil, subprocess, sys
from pathlib import Path
import nbformat, pandas as pd, pytest
from causalmmr import reproduce as r
from causalmmr.data import BadInput

PARAMETERS = """dataset  = 'smoke'
scale    = 'smoke'
seeds    = 3
data_dir = ''
out_dir  = '_runs'
device   = 'cpu'
models   = ''
datasets = {'smoke': ['smoke'], 'cpu': ['smoke', 'toy'], 'paper': ['toy']}"""
SMOKE = r.data_tag('smoke')

@pytest.fixture
def shelf(tmp_path):
    "A folder of table notebooks: `shelf(name='its code', …)`."
    def make(**tables):
        d = tmp_path/'shelf'; d.mkdir(exist_ok=True)
        for name,code in tables.items():
            cells = [nbformat.v4.new_code_cell(PARAMETERS, metadata=dict(tags=['parameters'])), nbformat.v4.new_code_cell(code)]
            nbformat.write(nbformat.v4.new_notebook(cells=cells), d/f'{name}.ipynb')
        return d
    return make

ECHO = ("import json, pathlib\nif seeds == 7: raise RuntimeError('broken on purpose')\n"
        "pathlib.Path(out_dir, f'echo-{dataset}.json').write_text(json.dumps(dict(dataset=dataset, scale=scale, seeds=seeds, models=models)))")

def quiet(s): pass

def fetched(page): # HTML -> what a browser would fetch for it from outside
    return re.findall(r"""<(?:script|link|img|iframe)[^>]+(?:src|href)=["']?((?:https?:)?//[^"' >]+)""", page)

def test_fetches_are_seen(): # nbconvert's own pages fetch require.js and MathJax
    from nbconvert import HTMLExporter
    from nbformat.v4 import new_notebook
    assert fetched(HTMLExporter().from_notebook_node(new_notebook())[0])

def test_parameters_arrive_and_failures_stay_alone(shelf, tmp_path, monkeypatch):
    monkeypatch.setenv('CAUSALMMR_TABLES', str(shelf(echo=ECHO, bad="raise OSError('x')")))
    rows, page = r.reproduce(['bad', 'echo'], out_dir=tmp_path/'out', seeds=5, models='MFBPR', workers=2, echo=quiet)
    assert [x['status'] for x in rows] == ['failed', 'done'] and rows[0]['error'] == 'OSError: x'
    assert json.loads((tmp_path/'out'/'echo-smoke.json').read_text()) == dict(dataset='smoke', scale='smoke', seeds=5, models='MFBPR')
    text = page.read_text(encoding='utf8')
    for x in rows:
        page = Path(x['notebook']).with_suffix('.html')
        assert Path(x['notebook']).is_file() and f"notebooks/{x['job']}.html" in text
        assert 'seeds' in page.read_text(encoding='utf8') and not fetched(page.read_text(encoding='utf8'))
    tagged = [c for c in nbformat.read(rows[1]['notebook'], 4).cells if 'injected-parameters' in c.metadata.get('tags', [])]
    assert len(tagged) == 1 and 'seeds = 5' in tagged[0].source
    again = lambda **kw: r.reproduce(['echo'], out_dir=tmp_path/'out', models='MFBPR', echo=quiet, **kw)[0][0]['status']
    assert again(seeds=5) == 'kept' and again(seeds=6) == 'done'                  # other parameters are another job

def test_the_command_line_gives_1_for_a_failed_job(shelf, tmp_path, monkeypatch, capsys, no_kernel):
    from causalmmr.cli import main
    monkeypatch.setenv('CAUSALMMR_TABLES', str(shelf(echo=ECHO)))
    assert main(['reproduce', 'echo', '--seeds', '7', '--out', str(tmp_path/'out'), '--json']) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)['jobs'][0]['error'] == 'RuntimeError: broken on purpose' and 'seeds=7' in err

def test_rows_are_named_as_the_table_names_them(shelf, tmp_path, monkeypatch, root, no_kernel):
    from causalmmr.cli import main
    d = shelf(rows=ECHO); p = d/'rows.ipynb'; p.write_text(p.read_text().replace("datasets =", "choices = ['AD-DRL', 'no attention, one half']\\ndatasets ="))
    monkeypatch.setenv('CAUSALMMR_TABLES', str(d))
    assert main(['reproduce', 'rows', '--models', 'AD-DRL;no attention, one half', '--out', str(tmp_path/'out'), '--json']) == 0    # no class has such a name
    assert json.loads((tmp_path/'out'/'echo-smoke.json').read_text())['models'] == 'AD-DRL;no attention, one half'
    monkeypatch.delenv('CAUSALMMR_TABLES')
    named = {n: c for n, path in r.tables().items() if (c := r.parameters(path).get('choices'))}
    for n, path in r.tables().items(): assert 'Table(' in path.read_text() or ('rows_wanted(' in path.read_text()) == (n in named), n    # else its printed command with --models would be refused; a Table looks itself
    for n, c in named.items(): assert r.plan([n], scale='smoke', out_dir=tmp_path, models=';'.join(c)), n

def test_every_table_takes_the_common_parameters(root):
    names = sorted((root/'nbs'/'tables').glob('*.ipynb'))
    assert names
    for n in names:
        takes = r.parameters(n)                                                    # exactly one tagged cell, or BadInput
        assert list(takes)[:7] == ['dataset', 'scale', 'seeds', 'data_dir', 'out_dir', 'device', 'models'], n
        assert set(takes['datasets']) == set(r.SCALES), n

TABLES = sorted((Path(__file__).resolve().parent.parent/'nbs'/'tables').glob('*.ipynb'))
WRONG = [(dict(scale='smok'), 'has the scales'), (dict(seeds=0), 'whole number from 1'), (dict(seeds='three'), 'whole number'), (dict(device='tpu7'), 'not available'),
         (dict(dataset='nowhere'), "no data set 'nowhere'"), (dict(scale='cpu', data_dir='/no/such/folder'), 'no such folder'), (dict(commit='false'), 'True or False'), (dict(sacle='cpu'), "no parameter 'sacle'")]

def first_cells(path):
    "A table's parameters and the code cells after them, to the one that checks them."
    code = [c for c in nbformat.read(path, 4).cells if c.cell_type == 'code']
    (k,) = (i for i,c in enumerate(code) if 'parameters' in c.metadata.get('tags', []))
    cells = [c.source for c in code]
    (check,) = (i for i,c in enumerate(cells) if 'Table(' in c or 'import asked' in c)
    return cells[k], cells[k+1:check+1]

def answer(path, **given):
    "The data set and tag that a table takes for these parameters at scale smoke, as papermill would give them."
    takes, checks = first_cells(path)
    names = {}
    exec(takes, names)
    names |= dict(scale='smoke') | given                                                 # as papermill's own cell below that one
    for cell in checks: exec(cell, names)
    told = names.get('t')
    return (told.dataset, told.tag) if told else (names['dataset'], names['tag'])

@pytest.mark.parametrize('path', TABLES, ids=lambda p: p.stem)
def test_every_table_checks_its_parameters_first(path, tmp_path):
    for given, words in WRONG + ([] if path.stem == 'classic' else [(dict(models='No such row'), 'models=')]):        # classic's rows are classes
        with pytest.raises(BadInput, match=words): answer(path, **given)
    datasets = r.parameters(path)['datasets']
    name = datasets['smoke'][0]
    assert answer(path) == (name, r.data_tag(name))
    with pytest.raises(BadInput, match='no data set') as e: answer(path, scale='cpu', data_dir=str(tmp_path)) if set(datasets['cpu']) - {'toy', 'smoke'} else answer(path, dataset='no data set')
    assert datasets['cpu'][0] in str(e.value) or datasets['cpu'][0] in ('toy', 'smoke')                              # the scale decides: not the simulator

def test_plain_papermill_says_it_in_one_sentence(tmp_path, root):
    p = subprocess.run([sys.executable, '-m', 'papermill', root/'nbs'/'tables'/'classic.ipynb', tmp_path/'out.ipynb', '-k', 'python3', '--no-progress-bar', '-p', 'scale', 'smok'],
                       capture_output=True, text=True, timeout=300)
    assert p.returncode and p.stderr.strip().split('\n')[-1] == "BadInput: scale='smok': classic has the scales smoke, cpu, paper."

def test_a_table_with_two_parameter_cells_is_refused(shelf):
    p = shelf(twice='x = 1')/'twice.ipynb'; nb = nbformat.read(p, 4)
    nb.cells.append(nbformat.v4.new_code_cell(PARAMETERS, metadata=dict(tags=['parameters']))); nbformat.write(nb, p)
    with pytest.raises(BadInput, match='2 cells'): r.parameters(p)

def test_classic_echoes_its_parameters(tmp_path, root):
    "Parameters through papermill really change the table: one model, two seeds, the toy."
    import papermill
    papermill.execute_notebook(root/'nbs'/'tables'/'classic.ipynb', tmp_path/'classic.ipynb', dict(dataset='toy', scale='smoke', seeds=2, models='MFBPR', out_dir=str(tmp_path/'out')),
                               kernel_name='python3', progress_bar=False)
    t = pd.read_parquet(tmp_path/'out'/'classic.parquet')
    assert list(t) == ['paper', 'table', 'dataset', 'model', 'metric', 'k', 'seed', 'value', 'paper_value', 'source', 'selected_on', 'data', 'code', 'made']
    assert set(t.dataset) == {'toy'} and set(t.seed) == {0, 1} and set(t.model) == {'MFBPR'} and set(t.selected_on) == {'valid recall@20'}
    assert t.value.between(0, 1).all() and (tmp_path/'out'/'figures'/f"classic-toy-{r.data_tag('toy')}.png").stat().st_size > 5000
    runs = [json.loads(f.read_text()) for f in (tmp_path/'out'/'runs').glob('*/run.json')]
    assert {x['dataset'] for x in runs} == {'toy'} and {x['name'] for x in runs} == {'MFBPR'}

@pytest.fixture
def shops(tmp_path):
    "Two data sets in folders of one name, one of which says another name of itself."
    from causalmmr.data import replace
    from causalmmr.formats import convert
    from causalmmr.store import dataset
    def make(folder, world, name):
        convert(replace(dataset(world), name=name), tmp_path/folder, 'parquet')
        return str(tmp_path/folder)
    return make('a/shop', 'toy', 'shop'), make('b/shop', 'smoke', 'corner shop')

WRITES = '''
import pathlib, pandas as pd
from causalmmr import store
from causalmmr.pages import asked, publish
dataset, tag = asked('lines', dataset, scale, seeds, data_dir, out_dir, device, models, datasets)
data = store.dataset(dataset)
line = dict(dataset=[data.name], model=['M'], metric=['recall'], k=[20], seed=[0], value=[float(data.n_users)], paper_value=[float('nan')])
publish(out_dir, False, tag, lines=pd.DataFrame(line))
folder = pathlib.Path(out_dir, 'figures'); folder.mkdir(exist_ok=True); (folder/f'lines-{data.name}-{tag}.png').write_bytes(data.name.encode())
'''

def test_two_shops_of_one_name_keep_their_tables(shelf, shops, tmp_path, monkeypatch, no_kernel):
    from causalmmr.store import dataset
    monkeypatch.setenv('CAUSALMMR_TABLES', str(shelf(lines=WRITES)))
    rows, page = r.reproduce(['lines'], out_dir=tmp_path/'out', datasets=list(shops), echo=quiet)
    assert [x['status'] for x in rows] == ['done', 'done'], rows
    assert len({x['notebook'] for x in rows}) == 2 and all(Path(x['notebook']).is_file() for x in rows)
    users = [dataset(s).n_users for s in shops]
    assert [r.results(tmp_path/'out', 'lines', x['dataset'], x['data']).iloc[0, 0] for x in rows] == users and users[0] != users[1]
    figures = [[p.stem for p in r.figures_of(j)] for j in r.plan(['lines'], out_dir=tmp_path/'out', datasets=list(shops))]
    assert [f[0].rsplit('-', 1)[0] for f in figures] == ['lines-shop', 'lines-corner shop'] and [len(f) for f in figures] == [1, 1]
    text = page.read_text()
    assert text.count('<table') == 2 and text.count('data:image/png') == 2

WIDE = """
import numpy as np, pandas as pd
from causalmmr import store
from causalmmr.pages import asked, publish
dataset, tag = asked('wide', dataset, scale, seeds, data_dir, out_dir, device, models, datasets)
def line(model, metric, k, seed, value, paper=np.nan, source=''):
    return dict(dataset=dataset, model=model, metric=metric, k=k, seed=seed, value=value, paper_value=paper, source=source)
rows = [line(m, metric, k, s, .1 + .001*s) for m in ('old', 'new') for s in range(3)
        for metric, k in [('home: recall', 20), ('strict auc gender explicit', 0), *((f'strength {i}', 0) for i in range(15)), ('masked recall', 20), ('recall', 20)]]
rows += [line('lost', 'recall', 20, -1, np.nan, source='the shop has no pictures')]
old = dict(model='old', mean=.1, diff=0., lo_runs=np.nan)
new = dict(model='new', mean=.2, diff=.1, lo_runs=.05, hi_runs=.15, p_t_holm=.001, p_w_holm=.001, p_runs_holm=.01, df_runs=3., detectable=.02, paper=.1875, of_paper=1.0667)
tests = pd.DataFrame([old, new]).assign(metric='recall@20', two_se=.01, sd_seeds=.01, seeds=3, stopped='', minutes=2., dataset=dataset)
publish(out_dir, False, tag, wide=pd.DataFrame(rows), wide_tests=tests)
"""

@pytest.fixture
def wide(shelf, tmp_path, monkeypatch, no_kernel):
    d = shelf(wide=WIDE); nb = nbformat.read(d/'wide.ipynb', 4)
    nb.cells.insert(0, nbformat.v4.new_markdown_cell('# A wide table')); nbformat.write(nb, d/'wide.ipynb')
    monkeypatch.setenv('CAUSALMMR_TABLES', str(d))
    return tmp_path/'out'

def test_a_report_says_what_a_page_says_and_a_terminal_can_be_read(wide, capsys):
    from causalmmr import __version__
    from causalmmr.cli import main
    assert main(['reproduce', 'wide', '--dataset', 'toy', '--seeds', '3', '--out', str(wide)]) == 0
    text = (wide/'report.html').read_text(encoding='utf8')
    (job,) = re.findall("<li><a href='#([^']+)'>", text)                                     # contents
    assert f"<h2 id='{job}'>A wide table</h2>" in text
    assert 'causalmmr reproduce wide --scale smoke --dataset toy --seeds 3' in text and str(wide) not in text.split('<h2')[1].split('</code>')[0]
    assert re.search(rf'Made on \d{{4}}-\d\d-\d\d by causalmmr {re.escape(__version__)}, code [0-9a-f]{{12}}', text)
    for said in ('0.2000 ± 0.0100', '0.1875', 'better than old: new', 'Training: 12.0 minutes for 6 runs', 'simulated: this shows'): assert said in text, said
    assert text.count('data:image/png') == 1 and text.count("alt='recall@20: rows from best to worst") == 1   # a forest
    assert text.count('the shop has no pictures') == 1 and '<td>lost</td>' not in text
    assert 'home: recall@20' in text and 'strict auc gender explicit' in text and 'masked' not in text
    out = capsys.readouterr().out
    assert 'No row for lost: the shop has no pictures.' in out and out.count('lost') == 1
    assert all(f'strength {k} ' in out for k in range(15)) and '…' not in out                # turned, and no heading cut
    assert 'home: recall@20' in out and 'strict auc gender explicit' in out and 'better' in out
    tables = [l for l in out.split('\n') if l[:1] in '│┃']
    assert tables and max(map(len, tables)) <= 80                                            # the width of a plain terminal

def test_a_program_gets_every_number(wide, capsys):
    from causalmmr.cli import main
    assert main(['reproduce', 'wide', '--dataset', 'toy', '--out', str(wide), '--json']) == 0
    (lines,) = json.loads(capsys.readouterr().out)['tables'].values()
    by = {(l['model'], l['metric']): l for l in lines}
    assert len(by) == len(lines) == 2*18 and by['old', 'home: recall@20'] == dict(model='old', metric='home: recall@20', ours=pytest.approx(.101), two_se=pytest.approx(2*.001/3**.5), seeds=3, paper=None)

def test_data_rewritten_in_place_are_run_again(shelf, shops, tmp_path, monkeypatch, no_kernel):
    monkeypatch.setenv('CAUSALMMR_TABLES', str(shelf(lines=WRITES)))
    go = lambda: r.reproduce(['lines'], out_dir=tmp_path/'out', datasets=[shops[0]], echo=quiet)[0][0]
    first = go()
    assert first['status'] == 'done' and go()['status'] == 'kept'
    shutil.copytree(shops[1], shops[0], dirs_exist_ok=True)
    second = go()
    assert second['status'] == 'done' and second['job'] != first['job']
    now = [r.results(tmp_path/'out', 'lines', x['dataset'], x['data']).iloc[0, 0] for x in (first, second)]
    assert now[0] != now[1]

def test_a_missing_data_set_costs_its_own_job_alone(shelf, tmp_path, monkeypatch, no_kernel):
    d = shelf(echo=WRITES.replace('lines', 'echo'))
    p = d/'echo.ipynb'
    p.write_text(p.read_text().replace("'cpu': ['smoke', 'toy']", "'cpu': ['nowhere', 'toy']"))
    monkeypatch.setenv('CAUSALMMR_TABLES', str(d))
    rows, _ = r.reproduce(['echo'], scale='cpu', out_dir=tmp_path/'out', echo=quiet)
    assert [x['status'] for x in rows] == ['failed', 'done'] and "no data set 'nowhere'" in rows[0]['error']
    with pytest.raises(BadInput, match="no data set 'nowhere'"): r.plan(['echo'], out_dir=tmp_path, datasets=['nowhere'])

def test_snakefile(shelf, tmp_path, monkeypatch):
    monkeypatch.setenv('CAUSALMMR_TABLES', str(shelf(echo=ECHO)))
    jobs = r.plan(['echo'], out_dir=tmp_path/'out', seeds=2, datasets=['toy', 'smoke'])
    text = r.snakefile(jobs, threads=2)
    for j in jobs:
        rule = text.split(f"rule {j.name.replace('-', '_')}:")[1].split('\nrule')[0]
        log, output = (next(l for l in rule.split('\n') if l.strip().startswith(w)) for w in ('log:', 'output:'))
        assert str(j.executed) in log and str(j.executed) not in output and j.key in rule and 'threads: 2' in rule
    assert text.count('OMP_NUM_THREADS={threads}') == 2

def test_without_snakemake_it_says_so(monkeypatch, shelf, tmp_path):
    monkeypatch.setenv('CAUSALMMR_TABLES', str(shelf(echo=ECHO)))
    monkeypatch.setattr(r.shutil, 'which', lambda *a: None)
    monkeypatch.setattr(r.importlib.util, 'find_spec', lambda *a: None)
    with pytest.raises(BadInput, match='Snakemake is not installed'): r.reproduce(['echo'], out_dir=tmp_path/'out', engine='snakemake', echo=quiet)
    assert not (tmp_path/'out').exists()

@pytest.mark.skipif(not (shutil.which('snakemake') or importlib.util.find_spec('snakemake')), reason='needs Snakemake, which is in the extra "cluster"')
def test_through_snakemake(shelf, tmp_path, monkeypatch):
    d = shelf(echo=ECHO, bad="raise OSError('x')"); monkeypatch.setenv('CAUSALMMR_TABLES', str(d))
    go = lambda: [x['status'] for x in r.reproduce(['bad', 'echo'], out_dir=tmp_path/'out', seeds=5, engine='snakemake', echo=quiet)[0]]
    assert go() == ['failed', 'done']
    assert (tmp_path/'out'/'notebooks'/f'bad-smoke-{SMOKE}.ipynb').is_file()                # the notebook that failed can be opened
    assert json.loads((tmp_path/'out'/'echo-smoke.json').read_text())['seeds'] == 5
    shelf(bad='x = 1')
    assert go() == ['done', 'kept']

SLURM = dict(                                                                              # what a cluster answers, without a cluster
    sbatch='#!/bin/sh\nprintf "%s\\n" "$@" > "$0.asked"\necho 4711', sacct='#!/bin/sh\necho "4711|FAILED"', sacctmgr='#!/bin/sh\necho causalmmr',
    sinfo='#!/bin/sh\necho standard', squeue='#!/bin/sh\n', scancel='#!/bin/sh\n', scontrol='#!/bin/sh\n')

def slurm_plugin():
    "Is Snakemake here with its plugin for Slurm, in this environment or in its own?"
    exe = shutil.which('snakemake')
    beside = exe and any(Path(exe).parent.parent.glob('lib/python*/site-packages/snakemake_executor_plugin_slurm'))
    return bool(beside or importlib.util.find_spec('snakemake_executor_plugin_slurm'))

@pytest.mark.skipif(not slurm_plugin(), reason='needs Snakemake with its Slurm plugin, which is in the extra "cluster"')
def test_slurm_is_asked_for_what_profile_and_measurements_say(shelf, tmp_path, monkeypatch, root):
    "The arguments of sbatch that Snakemake's own plugin makes of our Snakefile and of the profile that users edit; the job itself fails, as no node takes it."
    import os, yaml
    monkeypatch.setenv('CAUSALMMR_TABLES', str(shelf(echo=ECHO)))
    for name, text in SLURM.items():
        (tmp_path/'bin').mkdir(exist_ok=True)
        (tmp_path/'bin'/name).write_text(text)
        (tmp_path/'bin'/name).chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path/"bin"}{os.pathsep}{os.environ["PATH"]}')
    monkeypatch.setattr(r, 'minutes_for', lambda job: 77)
    ours = yaml.safe_load((root/'profiles'/'slurm'/'config.yaml').read_text())
    quick = {'slurm-init-seconds-before-status-checks': 1, 'latency-wait': 1, 'retries': 0}
    (tmp_path/'profile').mkdir(); (tmp_path/'profile'/'config.yaml').write_text(yaml.safe_dump(ours | quick))
    rows, _ = r.reproduce(['echo'], out_dir=tmp_path/'out', seeds=5, engine='snakemake', profile=tmp_path/'profile', echo=quiet)
    asked = (tmp_path/'bin'/'sbatch.asked').read_text().split('\n')
    after = lambda word: asked[asked.index(word)+1]
    assert (after('-A'), after('-p'), after('-t'), after('--mem')) == ('causalmmr', 'standard', '77', '8000') and '--cpus-per-task=1' in asked, asked
    assert f"echo_smoke_{SMOKE}" in asked[-2] and 'slurm-jobstep' in asked[-2]                # the rule, run by Snakemake on the node
    assert [x['status'] for x in rows] == ['failed']
