"""The documentation: what notebooks show is what their code gives, every link, formula, diagram and picture is whole, README.md is current."""
import http.server, json, os, re, shutil, subprocess, sys, threading
from pathlib import Path
import pytest
import docs_check, pages
from children import Child

BROWSER = next(filter(None, map(shutil.which, ['chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable', 'chrome'])), None)
PAGE = '<!doctype html><title>{t}</title><link rel="icon" href="data:,"><h1>{t}</h1>{b}'
SETTLED = dict(OMP_NUM_THREADS='1', PYTHONHASHSEED='0')

def command(root, *args, timeout=900):
    return subprocess.run([sys.executable, '-W', 'ignore', root/'tests/docs_check.py', *args], text=True, encoding='utf8', capture_output=True,
                          env={**os.environ, **SETTLED}, timeout=timeout)

@pytest.fixture(scope='module')
def site(root, tmp_path_factory):
    "All pages, built once, two at a time, by the command that a user has; what it says, of tables and README.md too, is in the second."
    out = tmp_path_factory.mktemp('site')/'pages'
    r = command(root, 'html', out, '--run')
    assert (out/'contents.html').exists(), r.stdout + r.stderr
    return out, r.stdout.splitlines(), docs_check.look(out)

def notebook(*cells, **metadata):
    "A notebook from cells: Markdown as a string, code as a tuple of source and outputs."
    made = [dict(cell_type='markdown', id=f'c{k}', metadata={}, source=c) if isinstance(c, str) else
            dict(cell_type='code', id=f'c{k}', metadata=c[2] if len(c) > 2 else {}, source=c[0], outputs=c[1], execution_count=None) for k, c in enumerate(cells)]
    return dict(cells=made, metadata=metadata, nbformat=4, nbformat_minor=5)

@pytest.fixture
def small(root, tmp_path):
    "A repository in small, with the real settings: write(name, *cells) adds a notebook."
    for d in ('nbs/tables', 'tests', 'results'): (tmp_path/d).mkdir(parents=True)
    for f in ('settings.ini', 'constraints.txt', '_quarto.yml', 'nbs/style.scss'): shutil.copy(root/f, tmp_path/f)
    def write(name, *cells, **metadata): (tmp_path/'nbs'/name).write_text(pages.as_text(notebook(*cells, **metadata)), encoding='utf8')
    return tmp_path, write

# ---- the pages of this repository

def test_every_notebook_is_a_page_and_every_link_leads_somewhere(site, root):
    out, _, seen = site
    assert len(seen) == len(docs_check.notebooks(root)) + 1                 # one each, and the list of them
    assert not docs_check.broken(out, seen)

def test_no_page_shows_raw_latex(site):
    "Every formula is converted (by pandoc, where it is installed), and no dollar or backslash is left in the text."
    assert not [l for l in site[1] if 'is not known to pandoc' in l or 'pandoc cannot convert' in l or 'shown as text' in l or 'is no formula' in l]

def test_nothing_is_fetched_from_elsewhere(site, root): assert not docs_check.fetched(site[0], site[2]) + docs_check.found_outside(root)

def test_every_picture_has_its_text(site, root): assert not docs_check.unseen(site[0], site[2]) + docs_check.found_pictures(root)

def test_diagrams_use_no_word_of_mermaid_as_a_node(root): assert not docs_check.found_diagrams(root)

def test_formulas_are_known_to_pandoc(root): assert not docs_check.found_latex(root)

def test_every_notebook_stands_in_the_sidebar_once(root): assert not docs_check.found_sidebar(root)

def test_every_page_shows_what_its_code_gives(root): assert not docs_check.outputs(root)

def test_table_pages_are_what_a_fresh_execution_gives(site, root):
    executed = [p for p in docs_check.notebooks(root) if pages.is_table(p) and docs_check.runs_here(p)]
    assert f'{len(executed)} tables executed' in site[1][-1] and executed and not [l for l in site[1] if l.startswith('nbs/tables/')]

def test_public_symbols_are_documented(site, root):
    "Every name of a module's `__all__` has a heading on the module's page: what show_doc prints, or a section of its own."
    missing = []
    for nb in docs_check.notebooks(root):
        src = [docs_check.source(c) for c in docs_check.read(nb)['cells'] if c['cell_type'] == 'code']
        if not re.search(r'^#\|\s*default_exp\s+(\S+)', '\n'.join(src), re.M): continue
        page = docs_check.page_of(nb.relative_to(root/'nbs').as_posix())
        for name in re.findall(r'^(?:def|class) +([A-Za-z]\w*)', '\n'.join(s for s in src if re.match(r'#\|\s*export\b', s)), re.M):
            if name.lower() not in site[2][page].ids: missing.append(f'{page}: {name}')
    assert not missing

def test_readme_is_what_index_renders(site): assert 'README.md is what nbs/index.ipynb makes' in site[1][-1], 'run `make readme`'

def test_readme_leads_to_files_that_exist(root):
    links = re.findall(r'\]\(([^()\s]+)\)', (root/'README.md').read_text(encoding='utf8'))
    assert not [l for l in links if not docs_check.external(l) and l[0] != '#' and not (root/l.split('#')[0]).exists()]

# ---- what the checks must find

def test_the_link_check_finds_planted_faults(tmp_path):
    (tmp_path/'a.html').write_text(PAGE.format(t='A', b='<h2 id="here">x</h2><a href="b.html#there">1</a><a href="#here">2</a><a href="sub/c.html">3</a>'
                                                        '<a href="/b.html#gone">4</a><a href="https://example.org/#x">5</a><img src="no.png" alt="no">'))
    (tmp_path/'b.html').write_text(PAGE.format(t='B', b='<h2 id="there">y</h2>'))
    found = docs_check.broken(tmp_path)
    assert len(found) == 3 and all(any(w in f for f in found) for w in ('sub/c.html', '#gone', 'no.png'))

@pytest.mark.parametrize('html', ['<script src="https://cdn.example.org/require.js"></script>', '<link rel="stylesheet" href="//fonts.example.org/x.css">',
                                  '<img alt="x" src="https://example.org/x.png">', '<style>@import url(https://fonts.example.org/css2);</style>',
                                  '<style>@font-face{src:url("https://fonts.example.org/a.woff")}</style>', '<iframe src="https://example.org"></iframe>'])
def test_a_fetch_from_elsewhere_is_found(tmp_path, html):
    (tmp_path/'a.html').write_text(PAGE.format(t='A', b=html + '<a href="https://example.org">a link is none</a>'))
    assert len(docs_check.fetched(tmp_path)) == 1

def test_a_picture_without_a_text_is_found(tmp_path, small):
    (tmp_path/'a.html').write_text(PAGE.format(t='A', b='<img src="data:,"><img alt="a line that rises" src="data:,">'))
    assert len(docs_check.unseen(tmp_path)) == 1
    root, write = small
    svg = [dict(output_type='display_data', data={'image/svg+xml': ['<svg/>']}, metadata={})]
    write('a.ipynb', '![](x.svg) and `![](code.svg)`', ('plot()', svg), ('#| fig-alt: a line that rises\nplot()', svg), '![a line](x.svg)')
    found = docs_check.found_pictures(root)
    assert len(found) == 2 and 'cell 0' in found[0] and 'cell 1' in found[1]

@pytest.mark.parametrize('line, word', [('style --> item', 'style'), ('item --> click', 'click'), ('a --> end', 'end'), ('class["a class"] --> b', 'class'),
                                        ('a -- why --> graph', 'graph'), ('a & linkStyle --> b', 'linkStyle'), ('a -.-> classDef', 'classDef')])
def test_a_reserved_node_is_found(line, word): assert any(f.startswith(f'{word} ') for f in docs_check.reserved(f'flowchart LR\n  {line}'))

@pytest.mark.parametrize('line', ['Z["style"] --> K["click"]', 'styles --> clicks', 'a -- style --> b', 'a -->|click| b', 'style a fill:#fff', 'click a href "x.html"',
                                  'subgraph one', 'end', 'classDef big font-size:2em', 'class a big', 'linkStyle 0 stroke:red', 'direction LR'])
def test_a_sound_line_is_not(line): assert not docs_check.reserved(f'flowchart LR\n  {line}')

@pytest.mark.parametrize('text', [r'$$\Bigl(x\Bigr)$$', r'$\argmin_x f$', 'costs $5 and no more', r'so \alpha is text', r'\$', r'a \(x\) b \beta'])
def test_raw_latex_is_found(text): assert docs_check.raw_latex(text)

@pytest.mark.parametrize('text', [r'$\bigl(x\bigr)$ and $\Big[x\Big]$', '`$HOME` and ``a $ b``', '```\n$ make test\n\\alpha\n```', r'$$\sum_i x_i$$', 'an $x$, a $y$.',
                                  r'$a\,b\_c$', 'plain words'])
def test_sound_text_is_not(text): assert not docs_check.raw_latex(text)

@pytest.mark.skipif(not docs_check.PANDOC, reason='pandoc is not installed')
def test_pandoc_agrees_with_the_list_of_unknown_macros():
    shown = docs_check.by_pandoc('', [(rf'\{m}{{x}}', False) for m in docs_check.UNKNOWN] + [(r'\Big(x\Big)', True), (r'\bigl(x\bigr)', False)])[1]
    assert not any(shown[:-2]) and all(shown[-2:])

@pytest.mark.skipif(not docs_check.PANDOC, reason='pandoc is not installed')
def test_what_pandoc_shows_as_text_is_found():
    import nbformat
    nb = lambda text: nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])
    page, bad = docs_check.html('a.html', 'A', '', nb(r'$\undefinedmacro x$ and $x^2$'), {})
    assert len(bad) == 1 and 'undefinedmacro' in bad[0] and page.count('<math') == 1
    page, bad = docs_check.html('a.html', 'A', '', nb('$x^2$ and `$x$`'), {})
    assert not bad and '$x$' in page and '$x^2$' not in page

def test_a_notebook_missing_in_the_sidebar_is_named(small):
    root, write = small
    (root/'nbs/guides').mkdir(exist_ok=True)
    for name in docs_check.in_sidebar(docs_check.settings(root)['website']['sidebar']['contents']): write(name, 'text')
    assert not docs_check.found_sidebar(root)
    (root/'nbs/guides').mkdir(exist_ok=True)
    write('guides/first.ipynb', 'text')
    (root/'nbs/index.ipynb').unlink()
    found = docs_check.found_sidebar(root)
    assert len(found) == 2 and 'guides/first.ipynb is not in' in found[0] and 'index.ipynb, which does not exist' in found[1]

@pytest.mark.parametrize('was, now, word', [('mathml', 'mathjax', 'mathml'), ('[cosmo, style.scss]', 'cosmo', 'light theme'), ('dark: [darkly, style.scss]', '', 'dark')])
def test_settings_that_fetch_are_found(small, was, now, word):
    root, _ = small
    assert not docs_check.found_outside(root)
    text = (root/'_quarto.yml').read_text(encoding='utf8')
    assert was in text
    (root/'_quarto.yml').write_text(text.replace(was, now), encoding='utf8')
    assert any(word in f for f in docs_check.found_outside(root))

# ---- make pages

FIGURE = 'import matplotlib.pyplot as plt\nfig,ax = plt.subplots(figsize=(2,1))\nax.plot([1,2,1.123456789])\nax.set_title("rises, falls")'

@pytest.fixture
def made(tmp_path):
    "`save` in a process of its own: its exit code, and what it says."
    pages.preload()
    def go(root, **how):
        said = tmp_path/'said'
        p = Child(lambda: pages.save(root=root, **how), out=said, before=lambda: os.environ.update(SETTLED))
        return p.wait(), said.read_text(encoding='utf8')
    return go

def test_pages_are_saved_the_same_twice_and_survive_cleaning(small, made):
    here, write = small
    old = [dict(output_type='stream', name='stdout', text=['kept\n'])]
    write('01_a.ipynb', 'text', ('print(1)', []), ('import pandas as pd\npd.DataFrame(dict(a=[1.5,2.], b_=["x|y","$z"]))', []), (FIGURE, []), ('#| slow\n1/0', old),
          ('#| eval: false\n1/0', old), ('import sys, tempfile\nprint("away", file=sys.stderr)\nprint(tempfile.mkdtemp(), object())', []), ('print(2)\nplt.close()\n3', []))
    write('tables/t.ipynb', ("scale = 'smoke'\n", [], dict(tags=['parameters'])), ('1/0', []))
    write('tables/u.ipynb', ("scale = 'committed'   # reads only\n", [], dict(tags=['parameters'])), ('scale', []))
    code, said = made(here)
    assert code == 0, said
    first = {p: p.read_bytes() for p in docs_check.notebooks(here)}
    cells = pages.read(here/'nbs/01_a.ipynb')['cells']
    shown = [''.join(o.get('text') or next(iter(o['data'].values()))) for c in cells for o in c.get('outputs', [])]
    assert shown[0] == '1\n' and shown[1] == '| a | b\\_ |\n|--:|:--|\n| 1.5 | x\\|y |\n| 2.0 | \\$z |\n'
    svg = shown[2 if shown[2].startswith('<svg') else 3]
    assert svg.startswith('<svg') and 'rises, falls</text>' in svg and '<metadata' not in svg and not re.search(r' d="[^"]*\.\d{3}', svg)
    assert shown.count('kept\n') == 2 and '/tmp/… <object object>\n' in shown and not any('away' in s for s in shown)
    assert shown[-2:] == ['2\n', '3'], 'in the order in which the cell shows it'
    assert pages.read(here/'nbs/tables/u.ipynb')['cells'][1]['outputs'] and not pages.read(here/'nbs/tables/t.ipynb')['cells'][1]['outputs']
    assert [f for f in pages.outputs(here)] == ['nbs/tables/t.ipynb shows nothing (its scale is not committed: it is not executed)']
    assert '0 of 2 notebooks executed' in made(here)[1]                  # nothing has changed
    assert '2 of 2 notebooks executed' in made(here, fresh=True)[1]
    assert first == {p: p.read_bytes() for p in docs_check.notebooks(here)}
    subprocess.run([Path(sys.executable).with_name('nbdev_clean')], cwd=here, check=True, capture_output=True)
    assert first == {p: p.read_bytes() for p in docs_check.notebooks(here)}, 'nbdev_clean must leave saved pages as they are'

def test_a_failing_cell_is_named_and_its_notebook_left_alone(small, made):
    root, write = small
    write('01_a.ipynb', ('print(1)', []), ('undefined_name', []))
    write('02_b.ipynb', ('print(2)', []))
    before = (root/'nbs/01_a.ipynb').read_bytes()
    code, said = made(root)
    assert code == 1 and '01_a.ipynb, cell 1' in said and 'undefined_name' in said
    assert (root/'nbs/01_a.ipynb').read_bytes() == before and pages.shown(pages.read(root/'nbs/02_b.ipynb'))
    assert '1 of 2 notebooks executed' in made(root)[1]                  # the other goes on where it stopped

def test_stale_and_missing_outputs_are_found(small):
    root, write = small
    out = [dict(output_type='stream', name='stdout', text=['1\n'])]
    cells = ('print(1)', out), ('#| slow\nprint(2)', out)
    write('01_a.ipynb', *cells, pages=pages.mark(notebook(*cells), root))
    assert not pages.outputs(root)
    write('01_a.ipynb', ('# a comment\nprint(1)', out), cells[1], pages=pages.mark(notebook(*cells), root))
    assert not pages.outputs(root)                                          # a comment changes no output
    write('01_a.ipynb', ('print(3)', out), cells[1], pages=pages.mark(notebook(*cells), root))
    assert 'has changed since its outputs' in pages.outputs(root)[0]
    write('01_a.ipynb', cells[0], ('#| slow\nprint(4)', out), pages=pages.mark(notebook(*cells), root))
    assert 'c1 is executed on demand' in pages.outputs(root)[0]
    write('01_a.ipynb', ('print(1)', []))
    assert 'shows nothing' in pages.outputs(root)[0]

@pytest.mark.parametrize('output, word', [(dict(output_type='display_data', data={'text/html': '<b>x</b>'}, metadata={}), 'CDN'),
                                          (dict(output_type='stream', name='stdout', text=['/root/x/data.csv\n']), 'machine'),
                                          (dict(output_type='stream', name='stdout', text=[' 50%|#####\n']), 'moment'),
                                          (dict(output_type='stream', name='stderr', text=['Warning\n']), 'warning')])
def test_outputs_that_do_not_belong_on_a_page_are_found(small, output, word):
    root, write = small
    write('01_a.ipynb', ('x', [output]), pages=pages.mark(notebook(('x', [output])), root))
    assert len(found := pages.outputs(root)) == 1 and word in found[0]

def test_a_table_page_that_is_not_what_its_code_gives_is_found(small):
    root, write = small
    head, out = ("scale = 'committed'", [], dict(tags=['parameters'])), [dict(output_type='stream', name='stdout', text=['1\n'])]
    for value in (1, 2):
        cells = head, (f'print({value})', out)
        write('tables/t.ipynb', *cells, pages=pages.mark(notebook(*cells), root))
        assert len(pages.differs(root)) == value - 1

def test_a_wide_heading_of_pandas_becomes_one_row():
    import pandas as pd
    t = pd.DataFrame([[1, 2], [3, 4]], index=pd.Index(['a', 'b'], name='model'), columns=pd.MultiIndex.from_product([['recall'], [10, 20]]))
    assert pages.pipes(t.to_html()).splitlines() == ['| model | recall 10 | recall 20 |', '|:--|--:|--:|', '| a | 1 | 2 |', '| b | 3 | 4 |']
    assert pages.pipes('<b>no table</b>') == '' == pages.pipes('<table></table><script>x</script>')

@pytest.mark.parametrize('heading, anchor', [('Bad input gets one sentence', 'bad-input-gets-one-sentence'), ('MMData', 'mmdata'), ('5-core', 'core'),
                                             ('Recommender.step', 'recommender.step'), ("What's `x_label`?", 'whats-x_label'), ('2026', 'section')])
def test_ids_are_pandocs(heading, anchor): assert docs_check.slug(heading.replace('`', '')) == anchor

# ---- in a browser

class Served:
    "A folder, and a page of our own at its root, on this machine; `faults` are requests that failed, `said` is what the page posts."
    def __init__(self, folder, front):
        self.faults, self.said, self.done = [], None, threading.Event()
        us = self
        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *a): super().__init__(*a, directory=str(folder))
            def do_GET(self):
                if self.path != '/': return super().do_GET()
                self.send_response(200)
                self.send_header('Content-Type', 'text/html; charset=utf-8')
                self.end_headers()
                self.wfile.write(front.encode())
            def do_POST(self):
                us.said = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
                self.send_response(204)
                self.end_headers()
                us.done.set()
            def log_request(self, code='-', size='-'):
                if int(code) >= 400: us.faults.append(f'{self.path}: status {int(code)}')
            def log_message(self, *a): pass
        self.server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)

    def open(self, tmp, seconds=180):
        "Open our page in headless Chromium until it has posted; (what it said, faults)."
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        options = '--headless --no-sandbox --disable-gpu --disable-quic --disable-dev-shm-usage --no-first-run --disable-background-networking ' \
                  '--disable-component-update --disable-sync --enable-logging=stderr --remote-debugging-port=0'.split()
        log = tmp/'browser.log'
        with log.open('w') as f:
            p = subprocess.Popen([BROWSER, *options, f'--user-data-dir={tmp}/profile', f'http://127.0.0.1:{self.server.server_port}/'],
                                 stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=f)
            try: self.done.wait(seconds)
            finally:
                p.terminate()
                p.wait(30)
                self.server.shutdown()
                self.server.server_close()
        text = log.read_text(errors='replace')
        assert self.done.is_set(), f'the browser gave no report: {text[-2000:]}'
        return self.said, self.faults + [l for l in text.splitlines() if 'CONSOLE' in l and re.search(r'Uncaught|[Ee]rror|Failed to load', l)]

SAY = 'const say = x => fetch("/", {method: "POST", body: JSON.stringify(x)});'

def browse(folder, tmp):
    """Open every page below `folder`, 390 pixels wide: ({page: title, headings, dead anchors, what is too wide}, faults).

    One page holds all the others in frames, and reports what the browser made of each once all are loaded."""
    found = sorted(p.relative_to(folder).as_posix() for p in folder.rglob('*.html'))
    front = '<!doctype html><link rel="icon" href="data:,">' + ''.join(f'<iframe src="/{p}" name="{p}" width="390" height="800"></iframe>' for p in found)
    return Served(folder, front + '<script>' + SAY + '''onload = () => {
        const docs = Object.fromEntries([...document.querySelectorAll("iframe")].map(f => [f.name, f.contentDocument]));
        const dead = a => { const d = docs[decodeURIComponent(a.pathname.slice(1))], id = decodeURIComponent(a.hash.slice(1));
                            return a.host == location.host && (!d || (id && !d.getElementById(id))) };
        const spills = (e, w) => e.getBoundingClientRect().right > w + 1 || (e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX == "visible");
        const wide = d => { const w = d.documentElement.clientWidth;
                            return d.documentElement.scrollWidth <= w ? "" : [...d.body.querySelectorAll("*")].filter(e => spills(e, w)).map(e => e.outerHTML)
                              .sort((a, b) => a.length - b.length).concat("the page")[0].slice(0, 200) };
        say(Object.fromEntries(Object.entries(docs).map(([p, d]) => [p, {
          title: d.title, headings: [...d.querySelectorAll("h1,h2,h3")].map(h => h.textContent.trim()), wide: wide(d),
          dead: [...d.querySelectorAll("a[href]")].filter(dead).map(a => a.getAttribute("href")) }]))) }</script>''').open(tmp)

needs_browser = pytest.mark.skipif(not BROWSER, reason='no Chromium or Chrome is installed')

@needs_browser
def test_a_browser_opens_every_page(site, tmp_path):
    out = site[0]
    seen, faults = browse(out, tmp_path)
    assert not faults
    assert len(seen) == len(site[2])
    for page, s in seen.items():
        assert s['title'] and s['headings'][0] == s['title'], f'{page}: title {s["title"]!r}, first heading {s["headings"][:1]}'
        assert not s['dead'], f'{page}: {s["dead"]}'
    assert not {page: s['wide'] for page, s in seen.items() if s['wide']}, 'these pages scroll sideways at 390 pixels'

@needs_browser
def test_the_browser_finds_planted_faults(tmp_path):
    (tmp_path/'pages').mkdir()
    (tmp_path/'pages/a.html').write_text(PAGE.format(t='A', b='<img src="no.png"><a href="/b.html#gone">4</a><pre>' + 'x'*500 + '</pre><script>undefinedName()</script>'))
    (tmp_path/'pages/b.html').write_text(PAGE.format(t='B', b='<h2 id="there">y</h2><pre style="overflow:auto">' + 'x'*500 + '</pre>'))
    seen, faults = browse(tmp_path/'pages', tmp_path)
    assert seen['a.html']['dead'] == ['/b.html#gone'] and seen['b.html'] == dict(title='B', headings=['B', 'y'], dead=[], wide='')
    assert 'xxx' in seen['a.html']['wide']
    assert any('no.png' in f for f in faults) and any('undefinedName' in f for f in faults)

@pytest.fixture(scope='module')
def mermaid(root, tmp_path_factory):
    "parse({name: diagram}) gives {name: what mermaid says is wrong}."
    script = next((p for p in [Path(os.environ.get('MERMAID') or '/nowhere'), root/'node_modules/mermaid/dist/mermaid.min.js'] if p.is_file()), None)
    if not BROWSER: pytest.skip('no Chromium or Chrome is installed')
    if not script: pytest.skip('mermaid is not installed: npm install mermaid@11, or name mermaid.min.js in MERMAID')
    def parse(named):
        tmp = tmp_path_factory.mktemp('mermaid')
        shutil.copy(script, tmp/'mermaid.js')
        return Served(tmp, '<!doctype html><link rel="icon" href="data:,"><script src="/mermaid.js"></script><script>' + SAY + 'const named = ' + json.dumps(named) + ''';
          (async () => { const bad = {};
            for (const [name, text] of Object.entries(named)) try { await mermaid.parse(text) } catch (e) { bad[name] = String(e.message || e) }
            say(bad) })()</script>''').open(tmp)[0]
    return parse

def test_mermaid_parses_every_diagram(mermaid, root):
    named = {f'{name}, cell {i}': '\n'.join(docs_check.diagrams(docs_check.source(c))) for name, i, c in docs_check.cells_of(root) if c['cell_type'] == 'markdown'}
    named = {n: d for n, d in named.items() if d}
    assert named and not mermaid(named)

def test_mermaid_refuses_what_our_own_check_refuses(mermaid):
    ours = {f'{w} {k}': f'flowchart LR\n  {line}' for w in docs_check.WORDS for k, line in enumerate((f'{w} --> item', f'item --> {w}'))}
    bad = mermaid(ours | {'sound': 'flowchart LR\n  accDescr: style decides what is shown\n  Z["style"] --> K["click"]', 'nonsense': 'flowchart LR\n  a -->'})
    assert 'sound' not in bad and 'nonsense' in bad and {'style 0', 'style 1', 'end 1', 'class 0'} <= set(bad)
    assert all(docs_check.reserved(d) for d in ours.values()), 'we refuse every one of them, as versions of mermaid differ'
