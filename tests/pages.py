"""Execute notebooks and save in them what they show: the same bytes each time, and nothing that names a machine or a moment.

    python tests/docs_check.py pages [NOTEBOOK …] [--fresh] [--flags 'slow realdata']    execute and save (make pages)
    python tests/docs_check.py outputs [--run]                                           which pages show nothing, or something stale

Every notebook runs in a process of its own, forked from one that has imported torch and pandas already. Cells flagged with one
of the `tst_flags` of settings.ini, or `eval: false`, are not executed and keep the output they have. A table notebook is executed
only if its own default is `scale = 'committed'`: every other scale trains. What was executed is remembered twice: in the notebook
(`metadata.pages`, a hash of its code, so that anyone sees that an output is stale) and in `_pages.json`, which git does not keep
(a hash of the code and of all that it imports and reads, so that an interrupted `make pages` goes on where it stopped).
"""
import configparser, gc, hashlib, json, multiprocessing, os, re, sys, tempfile, time, traceback
from functools import cache
from multiprocessing.connection import wait
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SETTLED = dict(COLUMNS='100', LINES='40', TZ='UTC', MPLBACKEND='agg', OMP_NUM_THREADS='1', OMP_WAIT_POLICY='PASSIVE')

# ---- processes

def each(f, jobs, workers=2, seconds=900):
    "`f(job)` of every job in a forked process of its own, `workers` at a time; yields (job, result, error text) as they end."
    how = multiprocessing.get_context('fork' if 'fork' in multiprocessing.get_all_start_methods() else 'spawn')
    todo, running = list(jobs), {}
    gc.freeze()                                        # what is imported is never garbage: the children need not look through it
    while todo or running:
        while todo and len(running) < workers:
            job = todo.pop(0)
            ours, theirs = how.Pipe(duplex=False)
            p = how.Process(target=_child, args=(f, job, theirs))
            p.start()
            theirs.close()
            running[ours] = job, p, time.monotonic()
        for pipe in wait(list(running), timeout=1):
            job, p, _ = running.pop(pipe)
            try: result, error = pipe.recv()
            except EOFError: result, error = None, 'the process ended without a word'
            p.join()
            yield job, result, error
        for pipe, (job, p, since) in list(running.items()):
            if time.monotonic() - since < seconds: continue
            del running[pipe]
            p.kill()
            p.join()
            yield job, None, f'stopped after {seconds} s'

def _child(f, job, pipe):
    try: answer = f(job), ''
    except BaseException: answer = None, traceback.format_exc()
    pipe.send(answer)
    pipe.close()
    sys.stdout.flush()
    os._exit(0)                                        # without IPython's farewell, which collects garbage for seconds

def preload():
    "Import in the parent what nearly every notebook imports, once."
    import matplotlib.pyplot, numpy, pandas, scipy.sparse, torch  # noqa: F401
    try: import numba, seaborn, sklearn.linear_model  # noqa: F401
    except ImportError: pass

# ---- notebooks

def notebooks(root=ROOT):
    "Every notebook that becomes a page."
    return [p for p in sorted((root/'nbs').rglob('*.ipynb')) if not any(q[0] in '._' for q in p.relative_to(root).parts)]

def read(path): return json.loads(Path(path).read_text(encoding='utf8'))

def as_text(nb): return json.dumps(nb, sort_keys=True, indent=1, ensure_ascii=False) + '\n'     # nbdev's own format

def write(path, nb):
    "Write only what changed, and never half a notebook."
    path, text = Path(path), as_text(nb)
    if path.read_text(encoding='utf8') == text: return False
    part = path.with_name(f'.{path.name}.part')
    part.write_text(text, encoding='utf8')
    part.replace(path)
    return True

def source(cell): return ''.join(cell['source'])

@cache
def never_run(root=ROOT):
    "Flags of cells that are executed on demand only."
    ini = configparser.ConfigParser(interpolation=None)
    ini.read(root/'settings.ini', encoding='utf8')
    return frozenset(ini['DEFAULT']['tst_flags'].split())

def flags(cell): return dict(re.findall(r'^#\s*\|\s*([\w-]+)\s*:?\s*(.*?)\s*$', source(cell), re.M))

def is_code(cell): return cell['cell_type'] == 'code' and bool(source(cell).strip())

def executed(cell, wanted=(), root=ROOT):
    "Is this cell executed when pages are made?"
    f = flags(cell)
    return is_code(cell) and f.get('eval', '').lower() != 'false' and not (never_run(root) - set(wanted)) & f.keys()

def code(cell):
    "What decides the output of a cell: its lines without blank lines and comments."
    lines = [l.rstrip() for l in source(cell).split('\n')]
    return '\n'.join(l for l in lines if l and not l.lstrip().startswith('#'))

def digest(*parts): return hashlib.sha256('\0'.join(parts).encode()).hexdigest()[:16]

def mark(nb, root=ROOT):
    "The hash of all code that is executed, and of each cell that is not and shows something."
    cells = [c for c in nb['cells'] if is_code(c)]
    kept = {c['id']: digest(code(c)) for c in cells if not executed(c, root=root) and c['outputs']}
    return dict(code=digest(*(code(c) for c in cells if executed(c, root=root))), **(dict(kept=kept) if kept else {}))

def is_table(path): return Path(path).parent.name == 'tables'

def runs_here(path, nb=None):
    "Library notebooks are executed; a table only if what it shows by default is the committed result."
    if not is_table(path): return True
    cells = (nb or read(path))['cells']
    first = next((source(c) for c in cells if 'parameters' in c.get('metadata', {}).get('tags', [])), '')
    return bool(re.search(r'^scale\s*(?::\s*str\s*)?=\s*[\'"]committed[\'"]', first, re.M))

# ---- what a cell shows

def figures():
    "SVG with fixed ids, without dates, on white (a dark page must not swallow black letters), its text as text."
    import matplotlib
    from matplotlib_inline.backend_inline import set_matplotlib_formats
    matplotlib.rcParams.update({'svg.hashsalt': 'causalmmr', 'svg.fonttype': 'none', 'figure.facecolor': 'white', 'savefig.facecolor': 'white'})
    set_matplotlib_formats('svg', bbox_inches='tight', metadata=dict(Date=None, Creator=None))

def shell():
    "An IPython shell that keeps what a cell shows, in the order in which it shows it: `shell.log`, a list of notebook outputs."
    from IPython.core.displayhook import DisplayHook
    from IPython.core.displaypub import DisplayPublisher
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config
    log = []

    class Hook(DisplayHook):
        def write_output_prompt(self): pass
        def write_format_data(self, data, md=None):
            log.append(dict(output_type='execute_result', data=dict(data), metadata={}, execution_count=None))
        def finish_displayhook(self): pass

    class Publisher(DisplayPublisher):
        def publish(self, data, metadata=None, source=None, **kw):
            log.append(dict(output_type='display_data', data=dict(data), metadata={}))
        def clear_output(self, wait=False): log.clear()

    class Shell(InteractiveShell):
        displayhook_class, display_pub_class = Hook, Publisher
        def enable_gui(self, gui=None): pass

    sh = Shell.instance(config=Config(HistoryManager=dict(enabled=False)))
    sh.log = log
    sh.enable_matplotlib('inline')
    figures()
    return sh

class Stream:
    "What a cell prints, appended to the log of its shell."
    encoding, errors = 'utf-8', 'strict'
    def __init__(self, log, name): self.log, self.name = log, name
    def write(self, text):
        last = self.log[-1] if self.log else {}
        if last.get('name') == self.name: last['text'] += text
        else: self.log.append(dict(output_type='stream', name=self.name, text=str(text)))
        return len(text)
    def writelines(self, lines): self.write(''.join(lines))
    def flush(self): pass
    def isatty(self): return False
    def writable(self): return True
    def readable(self): return False

def run(path, wanted=(), root=ROOT):
    "The notebook with fresh outputs; raises RuntimeError, naming the cell, if one fails."
    nb, path = read(path), Path(path)
    os.environ.update(SETTLED)
    home = Path.cwd(), sys.stdout, sys.stderr
    os.chdir(path.parent)
    sys.path.insert(0, str(root))
    sh = shell()
    sys.stdout, sys.stderr = Stream(sh.log, 'stdout'), Stream(sh.log, 'stderr')
    try:
        for i, c in enumerate(nb['cells']):
            if not executed(c, wanted, root): continue
            sh.log.clear()
            r = sh.run_cell(source(c), store_history=False)
            if r.error_before_exec or r.error_in_exec:
                told = ''.join(o.get('text', '') for o in sh.log)
                raise RuntimeError(f'{path.relative_to(root)}, cell {i}: {r.error_before_exec or r.error_in_exec!r}\n{told[-3000:]}')
            c['outputs'] = tidy(sh.log, root)
    finally:
        os.chdir(home[0])
        sys.stdout, sys.stderr = home[1:]
    return settled(nb, root)

def settled(nb, root=ROOT):
    "The notebook as nbdev_clean would leave it, with the hash of the code that made its outputs."
    for c in nb['cells']:
        if c['cell_type'] == 'code': c['execution_count'] = None
    nb['metadata']['pages'] = mark(nb, root)
    return nb

def tidy(log, root=ROOT):
    "Outputs for saving: no warnings, no progress bars, no paths or addresses of this machine, tables as Markdown, pictures as SVG."
    out = []
    for o in log:
        if o['output_type'] == 'stream':
            text = nameless('\n'.join(l.split('\r')[-1].rstrip() for l in o['text'].split('\n')), root).strip('\n')
            if o['name'] != 'stdout' or not text: continue
            out.append(dict(output_type='stream', name='stdout', text=lines(text + '\n')))
            continue
        data = {k: v for k, v in o['data'].items() if k in ('text/plain', 'text/markdown', 'text/html', 'image/svg+xml', 'image/png')}
        if 'image/svg+xml' in data: data = {'image/svg+xml': picture(data['image/svg+xml'])}
        elif 'text/markdown' in data: data = {'text/markdown': nameless(data['text/markdown'], root)}
        elif 'text/html' in data and (table := pipes(data['text/html'])): data = {'text/markdown': nameless(table, root)}
        elif 'image/png' not in data: data = {k: nameless(v, root) for k, v in data.items()}
        if data: out.append({**o, 'data': {k: lines(v) for k, v in data.items()}})
    return out

def lines(text): return text.splitlines(keepends=True)

def nameless(text, root=ROOT):
    "Without the repository's folder, a temporary folder's name, or an address in memory."
    text = text.replace(f'{root}/', '').replace(str(root), '.')
    tmp = '|'.join(re.escape(t) for t in {tempfile.gettempdir(), '/tmp'})
    text = re.sub(rf'(?:{tmp})/[\w.-]+', '/tmp/…', text)
    return re.sub(r'(<[^<>\n]*?) at 0x[0-9a-fA-F]+', r'\1', text)

def picture(svg):
    "matplotlib's SVG without its header and metadata; coordinates with two digits (of a pixel's hundredth nobody sees more)."
    svg = re.sub(r'^.*?(?=<svg)', '', svg, flags=re.S)
    svg = re.sub(r'\s*<metadata>.*?</metadata>', '', svg, flags=re.S)
    cut = lambda m: re.sub(r'(\.\d\d)\d+', r'\1', m[0])
    return re.sub(r'\s(?:d|x|y|x1|x2|y1|y2|points)="[^"]*"|translate\([^)]*\)', cut, svg).rstrip() + '\n'

def pipes(html):
    "A table in HTML (pandas) as a Markdown table, '' if it holds anything else. text/html would make Quarto load scripts from a CDN."
    from bs4 import BeautifulSoup
    soup = BeautifulSoup(html, 'html.parser')
    for s in soup.find_all('style', attrs={'scoped': True}): s.decompose()
    tables = soup.find_all('table')
    if len(tables) != 1 or soup.find(['script', 'style', 'img', 'svg']): return ''
    head, body = (_cells(tables[0].find(part)) for part in ('thead', 'tbody'))
    if not head or not body: return ''
    names = [' '.join(dict.fromkeys(filter(None, column))) for column in zip(*head)]
    if len(names) > 1 and not names[0] and [r[0] for r in body] == [str(k) for k in range(len(body))]:      # rows that are only numbered
        names, body = names[1:], [r[1:] for r in body]
    right = [all(re.fullmatch(r'[-+–]?[\d.,]*\d(?:e[-+]?\d+)?\s?%?|nan|inf|', r[k]) for r in body) for k in range(len(names))]
    row = lambda cells: '| ' + ' | '.join(map(plain, cells)) + ' |\n'
    note = ''.join(f'\n{p.get_text()}\n' for p in soup.find_all('p'))
    return row(names) + '|' + '|'.join('--:' if r else ':--' for r in right) + '|\n' + ''.join(map(row, body)) + note

def _cells(part):
    "The texts of a table's head or body as full rows: a cell that spans several places stands in the first of them."
    if part is None: return []
    rows, taken = [], {}
    for y, tr in enumerate(part.find_all('tr')):
        x = 0
        for cell in tr.find_all(['td', 'th']):
            while (y, x) in taken: x += 1
            high, wide = int(cell.get('rowspan', 1)), int(cell.get('colspan', 1))
            spread = part.name == 'thead'              # a heading over several columns belongs to each of them
            for dy in range(high):
                for dx in range(wide): taken[y+dy, x+dx] = ' '.join(cell.get_text().split()) if spread or (dy, dx) == (0, 0) else ''
        rows.append(y)
    width = 1 + max((x for _, x in taken), default=-1)
    return [[taken.get((y, x), '') for x in range(width)] for y in rows]

def plain(text): return re.sub(r'([\\`*$<\[\]|~^]|(?<!\w)_|_(?!\w))', r'\\\1', text)

# ---- make pages

def reached(path, root=ROOT):
    "A hash of all that decides what a notebook shows: its code, the modules of the package that it imports, the committed results, this file."
    nb, seen, todo = read(path), set(), []
    text = '\n'.join(code(c) for c in nb['cells'] if c['cell_type'] == 'code')
    module = re.search(r'^#\s*\|\s*default_exp\s+(\S+)', '\n'.join(source(c) for c in nb['cells']), re.M)
    find = lambda src: [m.replace('.', '/') for m in re.findall(r'\bcausalmmr(?:\.[\w.]+)?', src)] + \
                       [f'causalmmr/{m}' for g in re.findall(r'from causalmmr import \(?([\w, ]+)', src) for m in re.findall(r'\w+', g)]
    todo = find(text) + ([f'causalmmr/{module[1].replace(".", "/")}'] if module else [])
    while todo:
        m = todo.pop()
        f = next((root/p for p in (f'{m}.py', f'{m}/__init__.py') if (root/p).is_file()), None)
        if f is None or f in seen: continue
        seen.add(f)
        todo += find(f.read_text(encoding='utf8'))
    files = sorted(seen) + sorted((root/'results').glob('*')) + [Path(__file__), root/'constraints.txt']
    return digest(as_text(mark(nb, root)), text, *(hashlib.sha256(f.read_bytes()).hexdigest() for f in files if f.is_file()))

def save(names=(), wanted=(), fresh=False, workers=2, root=ROOT, told=print):
    "Execute and save what has changed (everything if `fresh`); the number of notebooks that failed."
    preload()
    memory = root/'_pages.json'
    done = json.loads(memory.read_text()) if memory.is_file() and not fresh else {}
    paths = [p for p in notebooks(root) if runs_here(p) and (not names or p.stem in names or str(p.relative_to(root)) in names)]
    name = {p: p.relative_to(root).as_posix() for p in paths}
    keys = {p: reached(p, root) for p in paths}
    todo = [p for p in paths if fresh or wanted or done.get(name[p]) != keys[p] or stale(p, root=root)]
    todo.sort(key=lambda p: -done.get(f'{name[p]}: seconds', p.stat().st_size/1e9))      # the longest first
    since, failed = time.monotonic(), 0
    for path, nb, error in each(_Timed(wanted, root), todo, workers):
        if error:
            failed += 1
            told(f'{name[path]} FAILED\n{error}')
            continue
        nb, seconds = nb
        told(f'{name[path]} {"saved" if write(path, nb) else "as before"} ({seconds:.0f} s)')
        done |= {name[path]: keys[path], f'{name[path]}: seconds': round(seconds, 1)}
        memory.write_text(json.dumps(done, indent=1, sort_keys=True))
    told(f'{len(todo)} of {len(paths)} notebooks executed in {time.monotonic()-since:.0f} s, {failed} failed')
    return failed

class _Timed:
    "run, with the seconds it took."
    def __init__(self, wanted, root): self.wanted, self.root = wanted, root
    def __call__(self, path):
        since = time.monotonic()
        nb = run(path, self.wanted, self.root)
        return nb, time.monotonic() - since

# ---- are the outputs there, and are they those of this code?

def shown(nb): return [o for c in nb['cells'] for o in c.get('outputs', [])]

def stale(path, nb=None, root=ROOT):
    "Why the saved outputs of a notebook are not those of its code, one sentence each."
    nb = nb or read(path)
    now, then = mark(nb, root), nb['metadata'].get('pages') or {}
    bad = [] if then.get('code') == now['code'] else ['its code has changed since its outputs were saved: run `make pages`']
    was = then.get('kept', {})
    bad += [f'cell {i} is executed on demand only, and has changed since its output was saved: run `make pages FLAGS=…`'
            for i, d in now.get('kept', {}).items() if was.get(i, d) != d]
    return bad

def outputs(root=ROOT):
    "Every page that shows nothing, or something that its code did not make, or that loads scripts from elsewhere."
    bad = []
    for path in notebooks(root):
        nb, name = read(path), path.relative_to(root).as_posix()
        if not any(is_code(c) for c in nb['cells']): continue
        if not shown(nb): bad.append(f'{name} shows nothing' + ('' if runs_here(path, nb) else ' (its scale is not committed: it is not executed)'))
        elif runs_here(path, nb): bad += [f'{name}: {s}' for s in stale(path, nb, root)]
        for i, c in enumerate(nb['cells']):
            for o in c.get('outputs', []):
                kinds = set(o.get('data', {})) & {'text/html', 'application/javascript', 'application/vnd.jupyter.widget-view+json'}
                if kinds: bad.append(f'{name}, cell {i}: {", ".join(sorted(kinds))}: Quarto then loads scripts from a CDN; show a DataFrame or Markdown')
                if o['output_type'] == 'error' or o.get('name') == 'stderr': bad.append(f'{name}, cell {i}: an error or a warning is saved')
                told = ''.join(o.get('text', '')) + ''.join(''.join(v) for k, v in o.get('data', {}).items() if k.startswith('text/'))
                for m in re.findall(r'(?<![\w.])/(?:home|root|Users|work)/\S*|/tmp/\w[\w.-]*| at 0x[0-9a-f]{6,}|\d+%\|', told):
                    bad.append(f'{name}, cell {i}: names a machine or a moment: {m}')
    return bad

def differs(root=ROOT, workers=2, only=is_table):
    "Executed pages (the tables) whose saved outputs are not what a fresh execution gives."
    preload()
    bad = []
    for path, nb, error in each(_Timed((), root), [p for p in notebooks(root) if only(p) and runs_here(p)], workers):
        name = path.relative_to(root).as_posix()
        if error: bad.append(f'{name}: {error}')
        elif nb[0] != (was := read(path)):
            cells = [i for i, (a, b) in enumerate(zip(nb[0]['cells'], was['cells'])) if a != b]
            bad.append(f'{name}: cells {cells} show something else when executed: run `make pages`')
    return bad
