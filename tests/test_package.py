"""The shape of the package: one notebook, one module; every public name asserted; imports run downhill; nothing unsafe is called."""
import ast, configparser, json, re, tomllib
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parent.parent
GENERATED = {'__init__.py', '_modidx.py'}

def own(p): return not any(q[0] in '._' for q in p.relative_to(ROOT/'nbs').parts)
NOTEBOOKS = {p.relative_to(ROOT/'nbs').as_posix(): json.loads(p.read_text(encoding='utf8')) for p in sorted((ROOT/'nbs').rglob('*.ipynb')) if own(p)}
TABLES    = {n: nb for n, nb in NOTEBOOKS.items() if n.startswith('tables/')}
MODULES   = {p.relative_to(ROOT/'causalmmr').with_suffix('').as_posix().replace('/', '.'): p.read_text(encoding='utf8')
             for p in sorted((ROOT/'causalmmr').rglob('*.py')) if p.name not in GENERATED}

def cells(nb, kind='code'): return [''.join(c['source']) for c in nb['cells'] if c['cell_type'] == kind]
def plain(src):
    "A cell's Python, without directives and magics."
    return '\n'.join('' if re.match(r'\s*[%!]', l) else l for l in src.split('\n'))
def default_exp(nb): return next((m[1] for s in cells(nb) if (m := re.search(r'^#\|\s*default_exp\s+(\S+)', s, re.M))), None)
def exported(src): return bool(re.search(r'^#\|\s*exports?\b', src, re.M))
EXPORTS = {n: e for n, nb in NOTEBOOKS.items() if (e := default_exp(nb))}

def imports(src):
    "Full dotted names that a piece of Python imports, at any depth of nesting."
    for n in ast.walk(ast.parse(src)):
        if isinstance(n, ast.Import): yield from (a.name for a in n.names)
        if isinstance(n, ast.ImportFrom) and n.module and not n.level: yield from (f'{n.module}.{a.name}' for a in n.names)

# one notebook, one module

def test_every_notebook_has_its_module_and_every_module_its_notebook():
    assert sorted(EXPORTS.values()) == sorted(MODULES)     # a list: a module exported twice shows too

def test_modules_are_numbered_and_tables_export_nothing():
    assert not [n for n in EXPORTS if not re.match(r'\d\d_\w+\.ipynb$', n)]

def upward(name, nb, exports):
    "Modules that notebook `name` imports although no smaller number exports them (its own module included)."
    known = {e for n, e in exports.items() if n < name}
    used = {i[len('causalmmr.'):] for s in cells(nb) for i in imports(plain(s)) if i.startswith('causalmmr.')}
    return sorted(u for u in used if any(u == m or u.startswith(m + '.') for m in exports.values())
                  and not any(u == m or u.startswith(m + '.') for m in known))

@pytest.mark.parametrize('name', [n for n in NOTEBOOKS if n[:1].isdigit()])
def test_a_notebook_imports_only_smaller_numbers(name): assert not upward(name, NOTEBOOKS[name], EXPORTS)

def test_the_import_check_finds_planted_faults():
    nb = lambda *src: dict(cells=[dict(cell_type='code', source=s) for s in src])
    exports = {'00_a.ipynb': 'a', '01_b.ipynb': 'x.b', '02_c.ipynb': 'c'}
    up = nb('%time 1\nfrom causalmmr.a import f\nfrom causalmmr.x.b import g', 'def h():\n    import causalmmr.c\n    from causalmmr import c')
    assert upward('01_b.ipynb', up, exports) == ['c', 'x.b.g']
    assert upward('03_d.ipynb', up, exports) == []

# what a module may and may not do

@pytest.mark.parametrize('module', MODULES)
def test_users_do_not_need_nbdev(module):
    assert not [i for i in imports(MODULES[module]) if i.split('.')[0] in ('nbdev', 'fastcore', 'execnb', 'IPython', 'pytest')]

SLOW = {'nbformat', 'nbconvert', 'papermill', 'optuna', 'snakemake'}      # to import: whoever needs one imports it where it is used

def at_once(src): # packages that are imported as soon as the module is
    tree = ast.parse(src)
    return {i.split('.')[0] for n in tree.body if isinstance(n, (ast.Import, ast.ImportFrom)) for i in imports(ast.unparse(n))}

@pytest.mark.parametrize('module', MODULES)
def test_no_command_waits_for_what_it_does_not_use(module): assert not at_once(MODULES[module]) & SLOW

def test_an_import_at_the_top_is_found(): assert at_once('import nbformat, json') & SLOW and not at_once('def f():\n    import nbformat') & SLOW

FORBIDDEN = {'pickle.load', 'pickle.loads', '_pickle.load', '_pickle.loads', 'marshal.load', 'marshal.loads', 'shelve.open', 'dill.load', 'dill.loads',
             'joblib.load', 'cloudpickle.load', 'cloudpickle.loads', 'pandas.read_pickle', 'yaml.load', 'yaml.unsafe_load', 'os.system',
             'builtins.eval', 'builtins.exec'}

def unsafe(src):
    "Calls that would run code found in a file: names are followed through `import … as …`."
    tree, names, bad = ast.parse(src), {}, []
    for n in ast.walk(tree):
        if isinstance(n, ast.Import): names |= {a.asname or a.name.split('.')[0]: a.name if a.asname else a.name.split('.')[0] for a in n.names}
        if isinstance(n, ast.ImportFrom) and n.module: names |= {a.asname or a.name: f'{n.module}.{a.name}' for a in n.names}
    def full(f):
        if isinstance(f, ast.Attribute): return f'{full(f.value)}.{f.attr}'
        if isinstance(f, ast.Name): return names.get(f.id, f'builtins.{f.id}' if f.id in ('eval', 'exec') else f.id)
        return '?'
    is_ = lambda node, v: isinstance(node, ast.Constant) and node.value is v
    for n in ast.walk(tree):
        if isinstance(n, ast.ClassDef) and any(full(b) == 'pickle.Unpickler' for b in n.bases) \
           and not any(isinstance(f, ast.FunctionDef) and f.name == 'find_class' for f in n.body): bad.append(f'line {n.lineno}: Unpickler that finds every class')
        if not isinstance(n, ast.Call): continue
        f, kw = full(n.func), {k.arg: k.value for k in n.keywords}
        if f in FORBIDDEN or f == 'pickle.Unpickler': bad.append(f'line {n.lineno}: {f}')
        if f == 'torch.load' and not is_(kw.get('weights_only'), True): bad.append(f'line {n.lineno}: torch.load without weights_only=True')
        if f == 'numpy.load' and (len(n.args) > 2 or not is_(kw.get('allow_pickle', ast.Constant(False)), False)):
            bad.append(f'line {n.lineno}: {f} with allow_pickle')
        if f.startswith('subprocess.') and not is_(kw.get('shell', ast.Constant(False)), False): bad.append(f'line {n.lineno}: {f} with a shell')
    return bad

@pytest.mark.parametrize('module', MODULES)
def test_no_module_runs_code_from_a_file(module): assert not unsafe(MODULES[module])

@pytest.mark.parametrize('src', ['import pickle\npickle.load(f)', 'import pickle as p\np.loads(b)', 'from pickle import load as l\nl(f)', 'import pickle\npickle.Unpickler(f).load()',
                                 'import torch\ntorch.load(p)', 'import torch as t\nt.load(p, weights_only=False)', 'import numpy as np\nnp.load(p, allow_pickle=True)',
                                 'import numpy as np\nnp.load(p, None, True)', 'import numpy as np\nnp.load(p, allow_pickle=x)', 'eval(s)', 'def f(): exec(s)',
                                 'import pandas as pd\npd.read_pickle(p)', 'import pickle\nclass R(pickle.Unpickler): pass', 'import subprocess\nsubprocess.run(c, shell=True)'])
def test_the_safety_check_finds_planted_faults(src): assert unsafe(src)

@pytest.mark.parametrize('src', ['model.eval()', 'import torch\ntorch.load(p, weights_only=True)', 'import numpy as np\nnp.load(p)', 'import json\njson.load(f)',
                                 'import pickle\nclass R(pickle.Unpickler):\n    def find_class(self, m, n): raise ValueError\nR(f).load()'])
def test_the_safety_check_lets_sound_code_pass(src): assert not unsafe(src)

# every public name is asserted somewhere

def public(src):
    tree = ast.parse(src)
    return next((ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign) and getattr(n.targets[0], 'id', '') == '__all__'), [])

ASSERTING = re.compile(r'test_\w+$|raises$|ExceptionExpected$')

class Flow:
    "Statement by statement, which names each variable's value comes from; `seen` are those whose values an assertion reads."
    def __init__(self): self.seen, self.of, self.changed, self.modules, self.helpers = set(), {}, {}, set(), set()

    def read(self, *nodes):
        "Names that expressions read, and where their values come from; `module.name` is a name, `value.method` is none."
        found = set()
        for n in (m for node in nodes if node is not None for m in ast.walk(node)):
            if isinstance(n, ast.Name): found |= {n.id} | self.of.get(n.id, set()) | self.changed.get(n.id, set())
            if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id in self.modules: found.add(n.attr)
        return found

    def bind(self, target, names):
        for n in ast.walk(target):
            if isinstance(n, ast.Name): self.of[n.id] = names | (self.of.get(n.id, set()) if not isinstance(n.ctx, ast.Store) else set())

    def statement(self, n):
        name = lambda f: getattr(f, 'id', getattr(f, 'attr', ''))
        call = lambda e: isinstance(e, ast.Call) and bool(ASSERTING.match(name(e.func)) or name(e.func) in self.helpers)
        if isinstance(n, (ast.Import, ast.ImportFrom)): self.modules |= {a.asname or a.name.split('.')[0] for a in n.names}
        elif isinstance(n, ast.Assert) or (isinstance(n, ast.Expr) and call(n.value)): self.seen |= self.read(n)
        elif isinstance(n, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
            for t in getattr(n, 'targets', None) or [n.target]: self.bind(t, self.read(n.value))
        elif isinstance(n, ast.Expr) and isinstance(n.value, ast.Call):           # a call for its effect: on what it is given, as far as this cell
            for v in {m.id for m in ast.walk(n) if isinstance(m, ast.Name)}: self.changed[v] = self.changed.get(v, set()) | self.read(n)
        elif isinstance(n, (ast.FunctionDef, ast.ClassDef)):
            self.of[n.name] = self.read(n)
            if any(isinstance(m, ast.Assert) for m in ast.walk(n)): self.helpers.add(n.name)      # to call it is to assert
            if n.name.startswith('test_'): self.cell(n.body)
        elif isinstance(n, (ast.For, ast.While, ast.If, ast.With, ast.Try)):
            if isinstance(n, ast.For): self.bind(n.target, self.read(n.iter))
            if isinstance(n, ast.With):
                if any(call(i.context_expr) for i in n.items): self.seen |= self.read(*n.body)
                for i in n.items:
                    if i.optional_vars: self.bind(i.optional_vars, self.read(i.context_expr))
            for part in ('body', 'orelse', 'handlers', 'finalbody'):
                for m in getattr(n, part, []):
                    for k in (m.body if isinstance(m, ast.ExceptHandler) else [m]): self.statement(k)

    def cell(self, body):
        self.changed = {}
        for n in body: self.statement(n)

def read_in_assertions(*cells): # code of one notebook or file, in order
    flow = Flow()
    for s in cells: flow.cell(ast.parse(s).body)
    return flow.seen

def asserted():
    "Names whose values an assertion of a notebook or of tests/ reads."
    return {n for nb in NOTEBOOKS.values() for n in read_in_assertions(*(plain(s) for s in cells(nb) if not exported(s)))} \
         | {n for p in (ROOT/'tests').glob('test_*.py') for n in read_in_assertions(p.read_text(encoding='utf8'))}

@pytest.mark.parametrize('module', MODULES)
def test_every_public_name_is_asserted(module, seen=asserted()): assert not [n for n in public(MODULES[module]) if n not in seen]

@pytest.mark.parametrize('src, seen', [
    ('assert f(1) == 2', True), ('x = f(1)\ntest_eq(x, 2)', True), ('def go(): return f(1)\nassert go() == 2', True), ('import m\nassert m.f(1)', True),
    ('with ExceptionExpected(ValueError): f(1)', True), ('with pytest.raises(ValueError): f(1)', True), ('f(x)\nassert x == 2', True),
    ('for y in f(1):\n    assert y', True), ('def test_it():\n    y = f(1)\n    assert y', True),
    ('def same(g): assert g() == 2\nsame(f)', True), ('f(1)\nassert True', False), ('assert True\ny = f(1)', False), ('x = f(1)\nx = 2\nassert x == 2', False), ('assert x.f == 2', False),
    ('# f\nassert "f" != 3', False), ('print(f(1))\nassert 1 < 2', False), ('from m import f\nassert g(1)', False)])
def test_a_name_is_asserted_when_its_value_is_read(src, seen): assert ('f' in read_in_assertions(src)) == seen

# notebooks as files

MARKER = re.compile(r'^(<{7}|>{7}|\|{7}) ', re.M)

@pytest.mark.parametrize('name', NOTEBOOKS)
def test_no_conflict_markers(name): assert not any(MARKER.search(s) for kind in ('code', 'markdown') for s in cells(NOTEBOOKS[name], kind))

@pytest.mark.parametrize('name', NOTEBOOKS)
def test_saved_outputs_name_no_machine(name):
    "No absolute path, no progress bar and no failure in what is committed."
    texts = [''.join(t) for c in NOTEBOOKS[name]['cells'] for o in c.get('outputs', []) for t in (o.get('text', ''), o.get('data', {}).get('text/plain', ''))]
    assert not [m[0] for t in texts for m in re.finditer(r'''(?<![\w/:.<>])/(?:[\w.+-]+/)+[\w.+-]+|\d+%\|.*''', t)]
    assert not [o for c in NOTEBOOKS[name]['cells'] for o in c.get('outputs', []) if o['output_type'] == 'error']

@pytest.mark.parametrize('name', sorted(NOTEBOOKS))
def test_the_first_cell_is_title_and_claim_only(name): # nbdev reads it as front matter and drops whatever else stands in it
    first = NOTEBOOKS[name]['cells'][0]
    lines = [l for l in ''.join(first['source']).split('\n') if l.strip()]
    assert first['cell_type'] == 'markdown' and len(lines) == 2 and lines[0].startswith('# ') and lines[1].startswith('> ')

@pytest.mark.parametrize('name', TABLES)
def test_a_table_has_one_parameters_cell(name):
    "papermill would run the defaults and say nothing if the tag were lost."
    tagged = [plain(''.join(c['source'])) for c in TABLES[name]['cells'] if 'parameters' in c['metadata'].get('tags', [])]
    assert len(tagged) == 1
    names = {t.id for n in ast.parse(tagged[0]).body if isinstance(n, ast.Assign) for a in n.targets for t in ast.walk(a) if isinstance(t, ast.Name)}
    assert names >= {'scale', 'datasets'}                            # what all tables have in common stands in causalmmr.pages.COMMON

# settings that stand in two files

def test_settings_agree():
    ini = configparser.ConfigParser(); ini.read(ROOT/'settings.ini', encoding='utf8'); ini = ini['DEFAULT']
    pyproject = tomllib.loads((ROOT/'pyproject.toml').read_text(encoding='utf8'))
    for k, v in pyproject['tool']['nbdev'].items():                                        # nbdev 3 reads these, nbdev 2 reads settings.ini
        assert ini[k] == (' '.join(v) if isinstance(v, list) else str(v)) or ini[k] == str(v).capitalize(), k
    assert ini['git_url'] == pyproject['project']['urls']['Repository']
    assert f'__version__ = "{ini["version"]}"' in (ROOT/'causalmmr/__init__.py').read_text()
    assert f'repository-code: {ini["git_url"]}' in (ROOT/'CITATION.cff').read_text()

def test_constraints_satisfy_pyproject():
    from packaging.requirements import Requirement
    pins = {r.name: next(iter(r.specifier)).version for l in (ROOT/'constraints.txt').read_text().splitlines() if l and l[0] != '#' for r in [Requirement(l)]}
    assert pins['torch'] == '2.13.0'
    project = tomllib.loads((ROOT/'pyproject.toml').read_text(encoding='utf8'))['project']
    wanted = [Requirement(r) for r in project['dependencies'] + project['optional-dependencies']['dev']]
    assert not [str(r) for r in wanted if r.name in pins and not r.specifier.contains(pins[r.name])]
    assert not [str(r) for r in map(Requirement, project['dependencies']) if r.name not in pins]      # everything we name ourselves is pinned

def test_quarto_reads_one_file():
    assert (ROOT/'nbs/_quarto.yml').is_symlink() and (ROOT/'nbs/_quarto.yml').resolve() == (ROOT/'_quarto.yml').resolve()

def test_contributing_says_it_first():
    assert 'edit the notebook' in (ROOT/'CONTRIBUTING.md').read_text(encoding='utf8').split('\n')[0].lower()
