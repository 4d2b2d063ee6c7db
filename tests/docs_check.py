"""The documentation without Quarto: plain pages from the notebooks, what is wrong with them, and the README.

    python tests/docs_check.py pages [NOTEBOOK …] [--fresh] [--flags 'slow …']    execute notebooks and save what they show (make pages)
    python tests/docs_check.py outputs [--run]    pages that show nothing or something stale; --run executes the table pages and compares
    python tests/docs_check.py check              diagrams, formulas, pictures' texts, sidebar, what is fetched from outside
    python tests/docs_check.py html [DIR] [--run] plain HTML pages in DIR (default _html), every internal link and formula checked;
                                                  --run executes the table pages as well, and compares README.md
    python tests/docs_check.py readme             write README.md from nbs/index.ipynb

nbdev prepares the notebooks exactly as for Quarto (its own `serve_drv`: symbols documented, names in backticks linked); only
the last step, notebook to HTML, is done by nbconvert instead. Ids of headings follow pandoc's rule, so that an anchor that
exists here exists on the real site. Where pandoc is installed it converts every formula, as it does for Quarto.
"""
import argparse, os, re, shutil, subprocess, sys, tempfile
from functools import cache
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from posixpath import dirname, join, normpath, relpath
from urllib.parse import unquote, urlsplit

import nbformat, yaml

from pages import ROOT, differs, each, flags, is_table, notebooks, outputs, preload, read, runs_here, save, source, stale  # noqa: F401

STYLE = 'body{max-width:60em;margin:2em auto;padding:0 1em;font:16px/1.5 sans-serif} pre{padding:.5em;background:#f6f6f6} ' \
        'table{border-collapse:collapse} td,th{padding:.2em .6em;border:1px solid #ddd} .anchor-link,.prompt{display:none} nav{font-size:small}'
PANDOC = shutil.which('pandoc')

# ---- notebooks as nbdev prepares them

def copied(root=ROOT):
    "A copy of what nbdev reads: nothing is written into the working tree."
    tmp = Path(tempfile.mkdtemp(prefix='causalmmr-docs-'))
    for f in ('settings.ini', 'pyproject.toml', '_quarto.yml'): shutil.copy(root/f, tmp)
    for d in ('nbs', 'causalmmr'):
        shutil.copytree(root/d, tmp/d, symlinks=True, ignore=shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints'))
    return tmp

def prepare(name, tmp):
    "One notebook of the copy, by its path in nbs/, as nbdev hands it to Quarto: (page's path, title, description, notebook)."
    from nbdev.processors import FilterDefaults
    import nbdev.serve_drv
    here, done = Path.cwd(), tmp/'_proc'/name
    done.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.chdir(tmp)
        nbdev.serve_drv.main((tmp/'nbs'/name, done, FilterDefaults))
    finally: os.chdir(here)
    return _front(done, tmp/'_proc')

def _front(path, done):
    "Split a prepared notebook into page, title, description and the cells a reader sees."
    nb = nbformat.read(path, 4)
    head = next((yaml.safe_load(c.source.strip().strip('-')) for c in nb.cells if c.cell_type == 'raw'), {})
    cells = []
    for c in nb.cells:
        if c.cell_type == 'raw': continue
        if c.cell_type == 'code':
            told = flags(c)
            if told.get('output') == 'asis':           # what show_doc prints is Markdown, with headings of its own
                text = [o.data.get('text/markdown', o.data.get('text/plain', '')) if 'data' in o else o.get('text', '') for o in c.outputs]
                c = nbformat.v4.new_markdown_cell('\n\n'.join(text))
            else:
                c.source = re.sub(r'^#\|.*\n?', '', c.source, flags=re.M).strip('\n')
                c.metadata['alt'] = told.get('fig-alt', '').strip('"\'')
                if told.get('echo') == 'false': c.source = ''
                if told.get('output') == 'false' or 'hide_output' in told: c.outputs = []
                if not (c.source or c.outputs): continue
        cells.append(c)
    nb.cells, nb.metadata['language_info'] = cells, {'name': 'python'}
    page = path.relative_to(done).with_name(head.get('output-file', path.with_suffix('.html').name)).as_posix()
    return page, head.get('title') or path.stem, head.get('description') or '', nb

def page_of(name):
    "The page that a notebook becomes: its number does not count."
    path = Path(name)
    return path.with_name(re.sub(r'^\d+[a-z0-9]*_', '', path.stem.lower()) + '.html').as_posix()

# ---- formulas

def prose(text):
    "Markdown without its code: blocks and spans are blanked, so that places stay."
    blank = lambda m: re.sub(r'[^\n]', ' ', m[0])
    text = re.sub(r'^(\s*)(`{3,}|~{3,}).*?^\s*\2`*\s*$', blank, text, flags=re.S | re.M)
    text = re.sub(r'<!--.*?-->', blank, text, flags=re.S)
    return re.sub(r'(?<![`\\])(`+)(?!`)(.+?)(?<!`)\1(?!`)', blank, text, flags=re.S)

# pandoc's rule: the opening dollar touches its formula on the right, the closing one on the left, and no digit follows it
FORMULA = re.compile(r'(?<!\\)\$\$(?P<display>.+?)(?<!\\)\$\$|(?<![\\$])\$(?=\S)(?P<inline>(?:\\.|[^$\\\n]|\n(?!\s*\n))+?)(?<=\S)(?<!\\)\$(?!\d)', re.S)

# what texmath (pandoc) leaves as text: each was tried
UNKNOWN = ['Bigl', 'Bigr', 'Biggl', 'Biggr', 'bigm', 'Bigm', 'middle', 'cfrac', 'argmin', 'argmax', 'rm', 'bf', 'it', 'color', 'textcolor',
           'hphantom', 'mathbbm', 'unicode', 'set', 'abs', 'norm', 'E', 'P', 'S', 'emph', 'cancel', 'smash', 'raisebox', 'upmodels', 'indep']
_UNKNOWN = re.compile(r'\\(?:' + '|'.join(UNKNOWN) + r')(?![A-Za-z])')

def formulas(text): return [(m['display'] or m['inline'], bool(m['display'])) for m in FORMULA.finditer(prose(text))]

def raw_latex(text):
    "What a page would show as a dollar or a backslash, by pandoc's rules: formulas it cannot convert, and what is no formula."
    bad = [f'{m[0]} is not known to pandoc: {t.strip()[:60]}' for t, _ in formulas(text) for m in _UNKNOWN.finditer(t)]
    rest = FORMULA.sub(lambda m: re.sub(r'[^\n]', ' ', m[0]), prose(text))
    rest = re.sub(r'\]\([^)\s]*\)|<[^<>\n]*>', lambda m: ' '*len(m[0]), rest)
    return bad + [f'{rest[max(0, m.start()-20):m.end()+20].strip()!r} is no formula' for m in re.finditer(r'\$|\\[A-Za-z]+', rest)]

def by_pandoc(text, texts):
    "One call of pandoc: the words that a reader sees of this Markdown, without code and formulas; formulas as MathML, None for each it cannot convert."
    doc = text + '\n\n' + '\n\n'.join(f'::: {{#f{k}}}\n' + (f'$${t}$$' if display else f'${t}$') + '\n:::' for k, (t, display) in enumerate(texts))
    r = subprocess.run([PANDOC, '-f', 'markdown', '-t', 'html', '--mathml', '--wrap=none'], input=doc, text=True, encoding='utf8', capture_output=True, timeout=300)
    words, *parts = re.split(r'<div id="f(\d+)">', r.stdout)
    found = {int(k): re.search(r'<math.*?</math>', body, re.S) for k, body in zip(parts[::2], parts[1::2])}
    shown = [' '.join(found[k][0].split()) if found.get(k) else None for k in range(len(texts))]
    return re.sub(r'<(pre|code|math|script|style)\b.*?</\1>|<!--.*?-->|<[^>]*>', ' ', words, flags=re.S), shown

def typeset(text, formula):
    "Markdown with each formula replaced by formula(tex, display); code stays as it is."
    seen, out, at = prose(text), [], 0
    for m in FORMULA.finditer(seen):
        out += [text[at:m.start()], formula(m['display'] or m['inline'], bool(m['display']))]
        at = m.end()
    return ''.join(out) + text[at:]

# ---- diagrams

WORDS = ('style', 'click', 'end', 'class', 'graph', 'subgraph', 'linkStyle', 'classDef', 'flowchart')
LINK = r'(?:<?-\.+-?|<?--+|<?==+)'

def diagrams(text): return re.findall(r'^```+\s*\{?mermaid\}?[^\n]*\n(.*?)^```', text, re.S | re.M)

def reserved(diagram):
    "Words of mermaid's own that stand where a node's id must stand: the diagram is then a bomb that says 'Syntax error in text'."
    bad = []
    for line in re.split(r'[\n;]', re.sub(r'"[^"\n]*"', '""', diagram)):
        line = re.sub(r'\|[^|\n]*\|', ' ', line)                       # a|label|b
        line = re.sub(rf'({LINK})\s+[^-=.\n<>]*?\s+(-+>|=+>|\.+->|-{{3,}})', r'\1>', line)   # a -- label --> b
        for m in re.finditer(rf'(?<![\w"])({"|".join(WORDS)})\b(?=\s*(?:{LINK}|&|\[|\(|\{{|>|:::))|(?:{LINK}[>xo]?|&)\s*({"|".join(WORDS)})\b', line):
            word = m[1] or m[2]
            if not re.match(rf'\s*(?:subgraph|graph|flowchart)\s+(?!{LINK}|[&>])', line): bad.append(f'{word} is a word of mermaid, not a name of a node: write Node["{word}"]')
    return list(dict.fromkeys(bad))

# ---- what is wrong with the notebooks

def cells_of(root): return [(p.relative_to(root).as_posix(), i, c) for p in notebooks(root) for i, c in enumerate(read(p)['cells'])]

def found_diagrams(root=ROOT):
    "Diagrams with a reserved word as a node, or without a text for those who cannot see them."
    bad = []
    for name, i, c in cells_of(root):
        if c['cell_type'] != 'markdown': continue
        for d in diagrams(source(c)):
            bad += [f'{name}, cell {i}: {s}' for s in reserved(d)]
            if not re.search(r'^\s*accDescr\s*[:{]\s*\S', d, re.M): bad.append(f'{name}, cell {i}: the diagram has no accDescr, its text for those who cannot see it')
    return bad

def found_latex(root=ROOT):
    "Markdown, and docstrings of exported code, that a page would show with raw LaTeX."
    bad = []
    for name, i, c in cells_of(root):
        if c['cell_type'] == 'markdown': bad += [f'{name}, cell {i}: {s}' for s in raw_latex(source(c))]
        elif 'export' in flags(c): bad += [f'{name}, cell {i}: {m[0]} is not known to pandoc' for m in _UNKNOWN.finditer(source(c).replace('\\\\', '\\')) if '$' in source(c)]
    return bad

def found_pictures(root=ROOT):
    "Pictures without a text in their place."
    bad = []
    for name, i, c in cells_of(root):
        if c['cell_type'] == 'markdown':
            text = prose(source(c))
            bad += [f'{name}, cell {i}: {m[0]} has no alt text' for m in re.finditer(r'!\[\s*\]\([^)]*\)|<img(?![^>]*\balt="[^"]+")[^>]*>', text)]
        elif any(k.startswith('image/') for o in c['outputs'] for k in o.get('data', {})) and not flags(c).get('fig-alt', '').strip('"\' '):
            bad.append(f'{name}, cell {i}: its picture has no alt text: first line `#| fig-alt: what it shows`')
    return bad

def settings(root=ROOT): return yaml.safe_load((root/'_quarto.yml').read_text(encoding='utf8'))

def in_sidebar(items):
    "Every notebook that the sidebar of _quarto.yml names, in its order."
    for item in items:
        if isinstance(item, str): yield item
        elif 'contents' in item: yield from ([item['href']] if 'href' in item else []) + list(in_sidebar(item['contents']))
        else: yield item.get('href') or item['file']

def found_sidebar(root=ROOT):
    "Notebooks that the sidebar misses, names twice, or invents; index comes first."
    listed = list(in_sidebar(settings(root)['website']['sidebar']['contents']))
    there = {p.relative_to(root/'nbs').as_posix() for p in notebooks(root)}
    bad = [f'{n} is not in the sidebar of _quarto.yml' for n in sorted(there - set(listed))]
    bad += [f'the sidebar of _quarto.yml names {n}, which does not exist' for n in sorted(set(listed) - there)]
    bad += [f'the sidebar of _quarto.yml names {n} {listed.count(n)} times' for n in sorted(set(listed)) if listed.count(n) > 1]
    ini = (root/'settings.ini').read_text(encoding='utf8')
    if not re.search(r'^custom_sidebar\s*=\s*True', ini, re.M): bad.append('settings.ini: custom_sidebar must be True, or nbdev writes a sidebar of its own')
    return bad + ([] if listed[:1] == ['index.ipynb'] else ['the sidebar of _quarto.yml must begin with index.ipynb'])

def found_outside(root=ROOT):
    "Settings of Quarto with which a page fetches something from elsewhere."
    form, bad = settings(root)['format']['html'], []
    if form.get('html-math-method') != 'mathml': bad.append('_quarto.yml: html-math-method is not mathml: formulas would load a script')
    theme = form.get('theme') or []
    modes = theme if isinstance(theme, dict) else dict(light=theme)
    if set(modes) != {'light', 'dark'}: bad.append('_quarto.yml: the theme has no light and dark version')
    for mode, parts in modes.items():
        own = [root/'nbs'/p for p in ([parts] if isinstance(parts, str) else parts) if p.endswith('.scss')]
        text = '\n'.join(p.read_text(encoding='utf8') if p.is_file() else '' for p in own)
        if not re.search(r'^\$web-font-path:\s*false\s*;', text, re.M): bad.append(f'_quarto.yml: the {mode} theme loads a web font: its .scss must say $web-font-path: false;')
        bad += [f'{mode} theme: {m[0]}' for m in re.finditer(r'(?:@import\s+(?:url\()?|url\()\s*["\']?(?:https?:)?//[^)"\']*', text)]
    return bad

CHECKS = dict(diagrams=found_diagrams, formulas=found_latex, pictures=found_pictures, sidebar=found_sidebar, outside=found_outside)

# ---- plain pages

def slug(text):
    "The id that pandoc gives a heading."
    text = re.sub(r'\s+', '-', re.sub(r'[^\w\s.-]', '', text.lower()).strip())
    return re.sub(r'^[\W\d_]+', '', text) or 'section'

def external(link): return bool(urlsplit(link).scheme or link.startswith('//'))

def target(link, page, pages):
    "Where a link on `page` leads: (path inside the site, anchor); `pages` maps a notebook to its page."
    path, anchor = unquote(urlsplit(link).path), unquote(urlsplit(link).fragment)
    path = page if not path else normpath(path.lstrip('/') if path.startswith('/') else join(dirname(page), path))
    return pages.get(path, path), anchor

@cache
def exporter():
    "nbconvert's pages without their cleaning of code, which is ours: its parsers take four fifths of the time, and nobody sees what they change."
    from nbconvert import HTMLExporter
    from nbconvert.filters import DataTypeFilter
    made = HTMLExporter(template_name='basic')
    made.register_filter('clean_html', lambda text: text)
    made.register_filter('filter_data_type', DataTypeFilter(parent=made))
    return made

def body_of(nb):
    "A notebook as HTML with a word in the place of each cell's code, and the codes: a parser need not look into their colours."
    from nbconvert import TemplateExporter
    from nbconvert.filters import Highlight2HTML
    colours, codes = Highlight2HTML(pygments_lexer='python'), []
    def hold(source, **_):
        codes.append(colours(source))
        return f'CODE{len(codes)-1}EDOC'
    exporter().register_filter('highlight_code', hold)
    return TemplateExporter.from_notebook_node(exporter(), nb, exporter()._init_resources({}))[0], codes

@cache
def style(root=ROOT):
    "The rules of the site's own style sheet, which hold on plain pages too, and colours for code."
    from pygments.formatters import HtmlFormatter
    return STYLE + (root/'nbs/style.scss').read_text(encoding='utf8').split('/*-- scss:rules --*/')[1] + HtmlFormatter().get_style_defs('.highlight')

def frame(title, body, css): return '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">' \
    f'<title>{escape(title)}</title><link rel="icon" href="data:,"><style>{css}</style></head><body><main>{body}</main></body></html>'

def html(page, title, description, nb, pages, root=ROOT):
    "A plain page (formulas by pandoc where it is installed, links made relative, pandoc's ids) and what is wrong with its formulas."
    from bs4 import BeautifulSoup
    marked, words = [], '\n\n'.join(c.source for c in nb.cells if c.cell_type == 'markdown')
    def hold(tex, display):
        marked.append((tex, display))
        return f'MATH{len(marked)-1}HTAM'
    for c in nb.cells:
        if c.cell_type == 'markdown': c.source = typeset(c.source, hold)
    bad, shown = raw_latex(words), [None]*len(marked)
    if PANDOC and re.search(r'[$\\]', words):
        told, shown = by_pandoc(words, marked)
        bad = bad or [f'pandoc cannot convert {t}' for (t, _), m in zip(marked, shown) if m is None] or \
            [f'{m[0].strip()!r} is shown as text' for m in re.finditer(r'.{0,20}(?:\$|\\[A-Za-z]).{0,40}', told)]
    body, codes = body_of(nb)
    alts = [c.metadata['alt'] for c in nb.cells if c.cell_type == 'code' for o in c.outputs if any(k.startswith('image/') for k in o.get('data', {}))]
    soup, seen = BeautifulSoup(body, 'html.parser'), {}
    for h in soup.find_all(re.compile('^h[1-6]$')):
        for a in h.select('a.anchor-link'): a.decompose()
        own = re.search(r'\s*\{[^}]*?#([\w.:-]+)[^}]*\}\s*$', h.text)
        if own: h.string = h.text[:own.start()]
        i = own[1] if own else slug(h.text)
        n = seen[i] = seen.get(i, -1) + 1
        h['id'] = f'{i}-{n}' if n else i
    for tag, key in [('a', 'href'), ('img', 'src')]:
        for a in soup.find_all(tag):
            if not a.get(key) or external(a[key]): continue
            path, anchor = target(a[key], page, pages)
            a[key] = ('' if path == page and anchor else relpath(path, dirname(page) or '.')) + (anchor and '#' + anchor)
    for picture, alt in zip(soup.select('.output_svg, .output_png'), alts):
        for p in picture.select('svg, img'): p['role'], p['aria-label'], p['alt'] = 'img', alt, alt
    home = relpath('contents.html', dirname(page) or '.')
    text = re.sub(r'MATH(\d+)HTAM', lambda m: shown[int(m[1])] or f'<code>{escape(marked[int(m[1])][0])}</code>', str(soup))
    text = re.sub(r'CODE(\d+)EDOC', lambda m: codes[int(m[1])], text)
    body = f'<nav><a href="{home}">all pages</a></nav><h1 class="title">{escape(title)}</h1><blockquote>{escape(description)}</blockquote>{text}'
    return frame(title, body, style(root)), bad

def one_page(job):
    "In a process of its own: prepare a notebook, write its page; returns title, description, and what is wrong with its text."
    name, tmp, out, pages, root = job
    page, title, description, nb = prepare(name, tmp)
    text, bad = html(page, title, description, nb, pages, root)
    (out/page).parent.mkdir(parents=True, exist_ok=True)
    (out/page).write_text(text, encoding='utf8')
    return page, title, description, [f'{page}: {s}' for s in bad]

def warm(root):
    "Import and compile once what every page needs, before the processes are forked."
    import importlib
    import nbdev.serve_drv, nbdev.showdoc  # noqa: F401
    preload()
    sys.path.insert(0, str(root))
    for f in sorted((root/'causalmmr').rglob('[a-z]*.py')): importlib.import_module('.'.join(f.relative_to(root).with_suffix('').parts))
    code = nbformat.v4.new_code_cell('print(1)', outputs=[nbformat.v4.new_output('stream', text='1')])
    html('x.html', '', '', nbformat.v4.new_notebook(cells=[code, nbformat.v4.new_markdown_cell('# x\n\n|a|\n|-|\n|b|')]), {}, root)

def build(out, root=ROOT, workers=2):
    "Write every page and a list of them to `out`; returns ({page: title}, what is wrong with their texts)."
    out, tmp = Path(out), copied(root)
    names = [p.relative_to(root/'nbs').as_posix() for p in notebooks(root)]
    pages = {n: page_of(n) for n in names}
    twice = sorted({p for p in pages.values() if list(pages.values()).count(p) > 1})
    assert not twice, f'two notebooks make the same page (numbers do not count): {twice}'
    for f in sorted((root/'nbs').rglob('*')):          # pictures and other files that pages may point to
        r = f.relative_to(root/'nbs')
        if f.is_file() and f.suffix not in ('.ipynb', '.yml', '.scss') and not any(p[0] in '._' for p in r.parts):
            (out/r).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(f, out/r)
    warm(root)
    seen, bad = {}, []
    try:
        jobs = sorted(names, key=lambda n: ('/' in n, -(root/'nbs'/n).stat().st_size))
        for job, answer, error in each(one_page, [(n, tmp, out, pages, root) for n in jobs], workers):
            if error: raise RuntimeError(f'{job[0]}: {error}')
            seen[job[0]] = answer
            bad += answer[3]
    finally: shutil.rmtree(tmp, ignore_errors=True)
    listed = {n: seen[n] for n in names}
    items = ''.join(f'<li><a href="{page}">{escape(title)}</a> {escape(description)}</li>' for page, title, description, _ in listed.values())
    (out/'contents.html').write_text(frame('All pages', f'<h1>All pages</h1><ul>{items}</ul>', style(root)), encoding='utf8')
    return {page: title for page, title, *_ in listed.values()} | {'contents.html': 'All pages'}, sorted(bad)

class Seen(HTMLParser):
    "What a page holds that links lead to, that leads elsewhere, and that a browser fetches by itself."
    FETCHED = dict(script='src', img='src', iframe='src', source='src', video='src', audio='src', embed='src', object='data')
    def __init__(self):
        super().__init__()
        self.ids, self.links, self.fetched, self.alts, self.within = set(), [], [], [], ''
    def handle_starttag(self, tag, attrs):
        at = dict(attrs)
        if at.get('id'): self.ids.add(at['id'])
        if tag == 'a' and at.get('href'): self.links.append(at['href'])
        key = 'href' if tag == 'link' else self.FETCHED.get(tag)
        if key and at.get(key): self.fetched.append(at[key])
        if tag == 'img' and not (at.get('alt') or '').strip(): self.alts.append(at.get('src', '')[:60])
        self.within = tag
        self.styled(at.get('style') or '')
    def handle_endtag(self, tag): self.within = ''
    def handle_data(self, data):
        if self.within == 'style': self.styled(data)
        if self.within == 'script': self.fetched += re.findall(r'["\'](https?://[^"\']+\.js)["\']', data)
    def styled(self, css): self.fetched += re.findall(r'(?:@import\s+(?:url\()?|url\()\s*["\']?((?:https?:)?//[^)"\'\s]+)', css)

def look(out):
    "What Seen finds on every page below a folder: {page: Seen}."
    out, seen = Path(out), {}
    for p in sorted(out.rglob('*.html')):
        s = seen[p.relative_to(out).as_posix()] = Seen()
        s.feed(p.read_text(encoding='utf8'))
    return seen

def broken(out, seen=None):
    "Every internal link of the built pages that leads nowhere, as one sentence each."
    out, seen, bad = Path(out), seen or look(out), []
    for page, s in seen.items():
        for link in s.links + s.fetched:
            if external(link): continue
            path, anchor = target(link, page, {})
            if not (out/path).is_file(): bad.append(f'{page}: {link} leads to {path}, which is not on the site')
            elif anchor and path in seen and anchor not in seen[path].ids: bad.append(f'{page}: {link}: {path} has no heading with the id {anchor}')
    return bad

def fetched(out, seen=None):
    "Everything that the built pages fetch from elsewhere."
    return [f'{page}: fetches {link}' for page, s in (seen or look(out)).items() for link in s.fetched if external(link) and not link.startswith('data:')]

def unseen(out, seen=None): return [f'{page}: a picture without alt text {src}' for page, s in (seen or look(out)).items() for src in s.alts]

# ---- README

def readme(root=ROOT):
    "README.md as nbs/index.ipynb makes it, and the pictures it shows as {path: bytes}."
    from nbconvert import MarkdownExporter
    tmp = copied(root)
    try: _, title, description, nb = prepare('index.ipynb', tmp)
    finally: shutil.rmtree(tmp, ignore_errors=True)
    text, res = MarkdownExporter().from_notebook_node(nb, {'output_files_dir': 'README_files', 'unique_key': 'figure'})
    alts = iter([c.metadata['alt'] for c in nb.cells if c.cell_type == 'code' for o in c.outputs if any(k.startswith('image/') for k in o.get('data', {}))])
    text = re.sub(r'!\[(?:png|svg)\]\((README_files/)', lambda m: f'![{next(alts, "")}]({m[1]}', text)
    text = re.sub(r'<style scoped>.*?</style>\n*', '', text, flags=re.S)
    text = re.sub(r'^<!-- WARNING.*?-->\n*', '', text, flags=re.M)
    named = {Path(page_of(p.name)).stem: p for p in sorted((root/'nbs').glob('*.ipynb'))}
    def link(m):                                       # pages do not exist on the code host: point to the notebook instead
        path = urlsplit(m[2]).path
        if external(m[2]) or not path or path.startswith('README_files/'): return m[0]
        nb = named.get(Path(path).stem) if path.endswith('.html') and '/' not in path.strip('/') else None
        return f'{m[1]}({nb.relative_to(root).as_posix() if nb else normpath("nbs/" + re.sub(".html$", ".ipynb", path.lstrip("/")))})'
    text = re.sub(r'(\])\(([^()\s]+)\)', link, text)
    text = '<!-- Made from nbs/index.ipynb by `make readme`: edit the notebook. -->\n\n' \
           f'# {title}\n\n' + (f'> {description}\n\n' if description else '') + text.strip()
    text = re.sub(r'[ \t]+$', '', text, flags=re.M)
    text = re.sub(r'^```python\n\s*```\n', '', text, flags=re.M)           # a cell whose code is not for readers
    return re.sub(r'\n{3,}', '\n\n', text) + '\n', res.get('outputs') or {}

def write_readme():
    text, pictures = readme()
    shutil.rmtree(ROOT/'README_files', ignore_errors=True)
    for name, data in pictures.items():
        (ROOT/name).parent.mkdir(exist_ok=True)
        (ROOT/name).write_bytes(data)
    (ROOT/'README.md').write_text(text, encoding='utf8')

def write_html(out, run=False, workers=2):
    out = Path(out).resolve()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    try: pages, latex = build(out, workers=workers)
    except RuntimeError as e:
        if 'Error in notebook' not in str(e): raise
        print(f'{e}\nnbdev runs exported cells, and cells that mix an import with other code, apart from all others '
              'when it builds the docs: give imports a cell of their own.', file=sys.stderr)
        return 1
    seen = look(out)
    bad = dict(links=broken(out, seen), fetched=fetched(out, seen), pictures=unseen(out, seen), latex=latex)
    for lines in bad.values(): print(*lines, sep='\n', end='\n' if lines else '')
    told = [f'{len(pages)} pages in {out}: ' + ', '.join(f'{len(b)} {k}' for k, b in bad.items())]
    if run:
        bad['tables'] = differs(workers=workers)
        print(*bad['tables'], sep='\n', end='\n' if bad['tables'] else '')
        stale = readme()[0] != (ROOT/'README.md').read_text(encoding='utf8')
        bad['readme'] = [stale] if stale else []
        told += [f'{sum(runs_here(p) for p in notebooks() if is_table(p))} tables executed',
                 'README.md is stale: run `make readme`' if stale else 'README.md is what nbs/index.ipynb makes']
    print(*told, sep='; ')
    return int(any(bad.values()))

def main(*args):
    ask = argparse.ArgumentParser(prog='docs_check.py', description=__doc__.split('\n')[0])
    ask.add_argument('job', nargs='?', default='html', choices=['pages', 'outputs', 'check', 'html', 'readme'])
    ask.add_argument('names', nargs='*', help='notebooks (pages), or the folder (html)')
    ask.add_argument('--fresh', action='store_true', help='execute even what has not changed')
    ask.add_argument('--flags', default='', help='execute cells with these flags too')
    ask.add_argument('--workers', type=int, default=2)
    ask.add_argument('--run', action='store_true', help='execute the table pages and compare (outputs, html)')
    told = ask.parse_args(args)
    if told.job == 'pages': return int(bool(save(told.names, told.flags.split(), told.fresh, told.workers)))
    if told.job == 'html': return write_html((told.names or ['_html'])[0], told.run, told.workers)
    if told.job == 'readme': return write_readme()
    bad = differs(workers=told.workers) if told.run else outputs() if told.job == 'outputs' else [s for f in CHECKS.values() for s in f()]
    print(*bad, f'{len(bad)} faults', sep='\n')
    return int(bool(bad))

if __name__ == '__main__': sys.exit(main(*sys.argv[1:]))
