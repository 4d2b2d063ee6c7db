"""The documentation without Quarto: plain pages from the notebooks, a check of every internal link, and the README.

    python tests/docs_check.py pages [DIR]    plain HTML pages in DIR (default _html), every internal link checked
    python tests/docs_check.py readme         write README.md from nbs/index.ipynb

nbdev prepares the notebooks exactly as for Quarto (its own `proc_nbs`: symbols documented, names in backticks linked);
only the last step, notebook to HTML, is done by nbconvert instead. Ids of headings follow pandoc's rule, so that an
anchor that exists here exists on the real site.
"""
import os, re, shutil, sys, tempfile
from functools import cache
from html import escape
from pathlib import Path
from posixpath import dirname, join, normpath, relpath
from urllib.parse import unquote, urlsplit

import nbformat, yaml
from bs4 import BeautifulSoup
from nbconvert import HTMLExporter, MarkdownExporter
from pygments.formatters import HtmlFormatter

ROOT = Path(__file__).resolve().parent.parent
STYLE = 'body{max-width:60em;margin:2em auto;padding:0 1em;font:16px/1.5 sans-serif} pre{overflow:auto;padding:.5em;' \
        'background:#f6f6f6} img{max-width:100%} table{border-collapse:collapse} td,th{padding:.2em .6em;border:1px solid #ddd}' \
        '.anchor-link,.prompt{display:none} nav{font-size:small}'

def prepare(root=ROOT, only=None):
    "Notebooks as nbdev hands them to Quarto: {notebook's path in nbs/: (page's path, title, description, notebook)}."
    from nbdev.processors import FilterDefaults
    from nbdev.quarto import nbdev_sidebar, refresh_quarto_yml
    from nbdev.serve import proc_nbs
    import nbdev.serve_drv
    here, tmp = Path.cwd(), Path(tempfile.mkdtemp(prefix='causalmmr-docs-'))
    try:                                               # on a copy: nothing is written into the working tree
        for f in ('settings.ini', 'pyproject.toml', '_quarto.yml'): shutil.copy(root/f, tmp)
        for d in ('nbs', 'causalmmr'):
            shutil.copytree(root/d, tmp/d, symlinks=True, ignore=shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints'))
        os.chdir(tmp)
        done = tmp/'_proc'
        if only:
            done.mkdir()
            nbdev.serve_drv.main((tmp/'nbs'/only, done/only, FilterDefaults))
        else:
            refresh_quarto_yml(); nbdev_sidebar.__wrapped__(); proc_nbs(n_workers=0)
        return {p.relative_to(done).as_posix(): _front(p, done) for p in sorted(done.rglob('*.ipynb'))}
    finally:
        os.chdir(here); shutil.rmtree(tmp, ignore_errors=True)

def _front(path, done):
    "Split a prepared notebook into page, title, description and the cells a reader sees."
    nb = nbformat.read(path, 4)
    head = next((yaml.safe_load(c.source.strip().strip('-')) for c in nb.cells if c.cell_type == 'raw'), {})
    cells = []
    for c in nb.cells:
        if c.cell_type == 'raw': continue
        if c.cell_type == 'code':
            flags = dict(re.findall(r'^#\|\s*([\w-]+)\s*:?\s*(.*?)\s*$', c.source, re.M))
            if flags.get('output') == 'asis':          # what show_doc prints is Markdown, with headings of its own
                text = [o.data.get('text/markdown', o.data.get('text/plain', '')) if 'data' in o else o.get('text', '') for o in c.outputs]
                c = nbformat.v4.new_markdown_cell('\n\n'.join(text))
            else:
                c.source = re.sub(r'^#\|.*\n?', '', c.source, flags=re.M).strip('\n')
                if flags.get('echo') == 'false': c.source = ''
                if flags.get('output') == 'false' or 'hide_output' in flags: c.outputs = []
                if not (c.source or c.outputs): continue
        cells.append(c)
    nb.cells, nb.metadata['language_info'] = cells, {'name': 'python'}
    page = path.relative_to(done).with_name(head.get('output-file', path.with_suffix('.html').name)).as_posix()
    return page, head.get('title') or path.stem, head.get('description') or '', nb

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
def exporter(): return HTMLExporter(template_name='basic')

def html(page, title, description, nb, pages):
    "One plain page: links made relative, headings with pandoc's ids."
    body, _ = exporter().from_notebook_node(nb)
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
    home = relpath('contents.html', dirname(page) or '.')
    return f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title><link rel="icon" href="data:,">' \
           f'<style>{STYLE}{HtmlFormatter().get_style_defs(".highlight")}</style></head><body><nav><a href="{home}">all pages</a></nav>' \
           f'<h1 class="title">{escape(title)}</h1><blockquote>{escape(description)}</blockquote>{soup}</body></html>'

def build(out, root=ROOT):
    "Write every page and a list of them to `out`; returns {page: title}."
    out, nbs = Path(out), prepare(root)
    pages = {n: page for n, (page, *_) in nbs.items()}
    twice = sorted({p for p in pages.values() if list(pages.values()).count(p) > 1})
    assert not twice, f'two notebooks make the same page (numbers do not count): {twice}'
    for f in sorted((root/'nbs').rglob('*')):          # pictures and other files that pages may point to
        r = f.relative_to(root/'nbs')
        if f.is_file() and f.suffix not in ('.ipynb', '.yml') and not any(p[0] in '._' for p in r.parts):
            (out/r).parent.mkdir(parents=True, exist_ok=True); shutil.copy(f, out/r)
    for page, title, description, nb in nbs.values():
        (out/page).parent.mkdir(parents=True, exist_ok=True)
        (out/page).write_text(html(page, title, description, nb, pages), encoding='utf8')
    items = ''.join(f'<li><a href="{page}">{escape(title)}</a> {escape(description)}</li>' for page, title, description, _ in nbs.values())
    (out/'contents.html').write_text('<!doctype html><html lang="en"><head><meta charset="utf-8"><title>All pages</title>'
        f'<link rel="icon" href="data:,"><style>{STYLE}</style></head><body><h1>All pages</h1><ul>{items}</ul></body></html>', encoding='utf8')
    return {page: title for page, title, *_ in nbs.values()} | {'contents.html': 'All pages'}

def broken(out):
    "Every internal link of the built pages that leads nowhere, as one sentence each."
    out = Path(out)
    soups = {p.relative_to(out).as_posix(): BeautifulSoup(p.read_text(encoding='utf8'), 'html.parser') for p in sorted(out.rglob('*.html'))}
    ids = {p: {t['id'] for t in s.find_all(id=True)} for p, s in soups.items()}
    bad = []
    for page, s in soups.items():
        for tag, key in [('a', 'href'), ('img', 'src'), ('script', 'src'), ('link', 'href')]:
            for link in [a[key] for a in s.find_all(tag) if a.get(key) and not external(a[key])]:
                path, anchor = target(link, page, {})
                if not (out/path).is_file(): bad.append(f'{page}: {link} leads to {path}, which is not on the site')
                elif anchor and path in ids and anchor not in ids[path]: bad.append(f'{page}: {link}: {path} has no heading with the id {anchor}')
    return bad

def readme(root=ROOT):
    "README.md as nbs/index.ipynb makes it, and the pictures it shows as {path: bytes}."
    _, title, description, nb = prepare(root, only='index.ipynb')['index.ipynb']
    text, res = MarkdownExporter().from_notebook_node(nb, {'output_files_dir': 'README_files', 'unique_key': 'figure'})
    text = re.sub(r'<style scoped>.*?</style>\n*', '', text, flags=re.S)
    text = re.sub(r'^<!-- WARNING.*?-->\n*', '', text, flags=re.M)
    notebooks = {re.sub(r'^\d+[a-z0-9]*_', '', p.name.lower())[:-6]: p for p in sorted((root/'nbs').glob('*.ipynb'))}
    def link(m):                                       # pages do not exist on the code host: point to the notebook instead
        path = urlsplit(m[2]).path
        if external(m[2]) or not path or path.startswith('README_files/'): return m[0]
        stem = Path(path).stem
        nb = notebooks.get(stem) if path.endswith('.html') and '/' not in path.strip('/') else None
        return f'{m[1]}({nb.relative_to(root).as_posix() if nb else normpath("nbs/" + re.sub(".html$", ".ipynb", path.lstrip("/")))})'
    text = re.sub(r'(\])\(([^()\s]+)\)', link, text)
    text = '<!-- Made from nbs/index.ipynb by `make readme`: edit the notebook. -->\n\n' \
           f'# {title}\n\n' + (f'> {description}\n\n' if description else '') + text.strip()
    text = re.sub(r'[ \t]+$', '', text, flags=re.M)
    return re.sub(r'\n{3,}', '\n\n', text) + '\n', res.get('outputs') or {}

def main(job='pages', out='_html'):
    if job == 'readme':
        text, pictures = readme()
        shutil.rmtree(ROOT/'README_files', ignore_errors=True)
        for name, data in pictures.items(): (ROOT/name).parent.mkdir(exist_ok=True); (ROOT/name).write_bytes(data)
        return (ROOT/'README.md').write_text(text, encoding='utf8') and None
    assert job == 'pages', f'{job}: say pages or readme'
    out = Path(out).resolve()
    shutil.rmtree(out, ignore_errors=True); out.mkdir(parents=True)
    try: pages = build(out)
    except Exception as e:
        if 'Error in notebook' not in str(e): raise
        print(f'{e}\n-> {e.__cause__!r}\nnbdev runs exported cells, and cells that mix an import with other code, apart from all others '
              'when it builds the docs: give imports a cell of their own.', file=sys.stderr)
        return 1
    bad = broken(out)
    print(*bad, f'{len(pages)} pages in {out}, {len(bad)} broken links', sep='\n')
    return int(bool(bad))

if __name__ == '__main__': sys.exit(main(*sys.argv[1:]))
