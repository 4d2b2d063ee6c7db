"""Data sets: hostile and broken files, and the real sets where CAUSALMMR_DATA says they are.

What explains the formats is tested in nbs/06_files.ipynb and nbs/07_formats.ipynb on small files. Here stands what does not explain: fuzzing, a
guard against pickles and connections, and agreement of the loaders with real sets rewritten in the papers' formats.
"""
import importlib, json, os, pickle, random, re, shutil, subprocess, sys, time
from collections import Counter
from pathlib import Path

import numpy as np, pandas as pd, pytest, scipy.sparse as sp, torch

from causalmmr.causal.scm import toy
from causalmmr.data import BadInput, check, describe, per_user_split, replace, require_sound
from causalmmr.files import not_taken, read_array
from causalmmr.formats import AGES, array, available, convert, load
from causalmmr.models.classic import LightGCN
from causalmmr.train import evaluate, fit, rng

ROOT = os.environ.get('CAUSALMMR_DATA')
SIZES = dict(ml1m=(6040, 3706, 802_553, 97_383, 100_273), tiktok=(9308, 6710, 59_541, 3051, 6130),
             toys=(18_748, 11_673, 101_713, 11_301, 48_639), sports=(35_598, 18_357, 218_409, 40_029, 37_899),
             baby=(19_445, 7050, 118_551, 20_559, 21_682), clothing=(39_387, 23_033, 197_338, 41_189, 40_150), coat=(290, 300, 2390, 616, 1666))
WIDTHS = dict(ml1m='a128 t384 v1280', tiktok='a128 v128', toys='t384', sports='t384', baby='t384', clothing='', coat='t20 v13')


@pytest.fixture
def real():
    """`load` of a real set, or a skip that says what is missing."""
    if not ROOT: pytest.skip('the environment variable CAUSALMMR_DATA is not set: no real data')
    def get(name, **kw):
        if not any((Path(ROOT)/name/f).exists() for f in ('inter.parquet','ratings.parquet')): pytest.skip(f'{ROOT}/{name} is not there')
        return load(name, **kw)
    return get


def as_set(x): return set(map(tuple, x.T.tolist()))

def same_pairs(a, b): return all(as_set(getattr(a, s)) == as_set(getattr(b, s)) for s in ('train','valid','test'))


# ---------------------------------------------------------------- hostile files

class Call:
    """Pickles as a call of any function."""
    def __init__(self, f, *args): self.f, self.args = f, args
    def __reduce__(self): return self.f, self.args


@pytest.mark.parametrize('f,args', [
    (os.system, ('touch {ran}',)), (eval, ("open('{ran}','w')",)), (exec, ("open('{ran}','w')",)),
    (open, ('{ran}','w')),
    (subprocess.Popen, (['touch','{ran}'],)), (np.save, ('{ran}', [1])), (np.load, ('{ran}',)),
    (torch.load, ('{ran}',)), (__import__, ('this',)), (sp.save_npz, ('{ran}', None)),
    (np.ndarray, ((3,), 'O', b'x'*24))])
@pytest.mark.parametrize('protocol', [0, 2, 4, 5])
def test_no_call_from_a_pickle(tmp_path, f, args, protocol):
    ran = tmp_path/'ran'
    fill = lambda a: a.format(ran=ran) if isinstance(a, str) else a
    args = tuple([fill(b) for b in a] if isinstance(a, list) else fill(a) for a in args)
    bomb = pickle.dumps(Call(f, *args), protocol)
    o = np.empty(1, object); o[0] = Call(f, *args)
    (tmp_path/'m.pkl').write_bytes(bomb)
    np.save(tmp_path/'m.npy', o, allow_pickle=True); np.savez(tmp_path/'m.npz', x=o)
    for kind in ('pkl','npy','npz'):
        if f is np.ndarray:                                            # a stand: no bytes are read as pointers
            assert kind != 'pkl' or not isinstance(read_array(tmp_path/'m.pkl'), np.ndarray)
            continue
        with pytest.raises(BadInput, match=f.__name__): read_array(tmp_path/f'm.{kind}')
    assert not ran.exists()


LISTS = np.empty(2, object); LISTS[:] = [[1,2],[3]]

@pytest.mark.parametrize('x', [LISTS, sp.csr_matrix(np.eye(3)), {'a':np.arange(3)}], ids=['lists','matrix','dict'])
def test_damaged_pickles_end_in_a_sentence(tmp_path, x):
    whole, rng, p = pickle.dumps(x, 4), random.Random(0), tmp_path/'m.pkl'
    for _ in range(400):
        b = bytearray(whole)
        for _ in range(rng.choice((1,2,5))): b[rng.randrange(len(b))] = rng.randrange(256)
        p.write_bytes(bytes(b[:rng.choice((len(b), rng.randrange(len(b))))]))
        try: read_array(p)
        except BadInput as e: assert '\n' not in str(e)


@pytest.mark.parametrize('module', ['data', 'files', 'formats'])
def test_module_never_unpickles_freely(module):
    text = Path(importlib.import_module(f'causalmmr.{module}').__file__).read_text()
    assert 'allow_pickle=True' not in text.replace('`allow_pickle=True`', '')
    assert not re.search(r'pickle\.loads?\(|(?<!literal_)\beval\(|weights_only=False', text)


def test_import_and_load_open_no_connection(tmp_path):
    pd.DataFrame(dict(userID=[0,0,1], itemID=[0,1,1], x_label=[0,1,2])).to_parquet(tmp_path/'inter.parquet')
    code = f"""
import sys, socket
def no(*a, **k): raise AssertionError('a connection')
socket.socket.connect = socket.create_connection = socket.getaddrinfo = no
from causalmmr.formats import load, available
load({str(tmp_path)!r}); available()
assert 'pooch' not in sys.modules and 'requests' not in sys.modules
"""
    subprocess.run([sys.executable, '-c', code], check=True)


# ---------------------------------------------------------------- broken sets, one sentence each

def write(folder, t, **arrays):
    t.to_parquet(folder/'inter.parquet')
    for k,x in arrays.items(): np.savez(folder/f'{k}.npz', x=x)

def named(folder): (folder/'about.json').write_text('{"features": {"v": "image_feat"}}')

PAIRS = pd.DataFrame(dict(userID=[0,0,0,1,1,1], itemID=[0,1,2,2,1,3], x_label=[0,0,2,0,1,2]))

@pytest.mark.parametrize('break_it,words', [
    (lambda f: write(f, PAIRS.rename(columns=dict(userID='user'))), ['inter.parquet', 'no column userID']),
    (lambda f: write(f, PAIRS.assign(itemID=list('abcdef'))), ['a as itemID in row 0']),
    (lambda f: write(f, PAIRS.assign(itemID=[0,1,2,2,1,.5])), ['0.5 as itemID in row 5']),
    (lambda f: write(f, PAIRS.assign(itemID=[0,1,2,2,1,np.inf])), ['inf as itemID in row 5']),
    (lambda f: write(f, PAIRS.assign(itemID=[0,1,2,2,1,10**9])), ['1000000000 in row 5', 'numbered from 0']),
    (lambda f: write(f, PAIRS.assign(x_label=7)), ['x_label 7 in row 0']),
    (lambda f: write(f, PAIRS[:0]), ['no pairs']),
    (lambda f: (f/'inter.parquet').write_bytes(b'PAR1 and no more'), ['inter.parquet cannot be read']),
    (lambda f: (f/'inter.parquet').write_bytes(b''), ['inter.parquet cannot be read']),
    (lambda f: (f/'inter.parquet').mkdir(), ['inter.parquet']),
    (lambda f: (write(f, PAIRS, image_feat=np.ones(4)), named(f)), ['image_feat.npz', 'float64 [4]']),
    (lambda f: (write(f, PAIRS, image_feat=np.array([['a']]*4)), named(f)), ['image_feat.npz', 'features [I,d] belong']),
    (lambda f: (write(f, PAIRS), named(f), np.savez(f/'image_feat.npz', y=[1], z=[2])), ['no array x; it has y, z']),
    (lambda f: (write(f, PAIRS), named(f), (f/'image_feat.npz').write_bytes(b'PK')), ['image_feat.npz cannot be read']),
    (lambda f: (write(f, PAIRS), named(f)), ['has no array image_feat; it has none']),
    (lambda f: (write(f, PAIRS), (f/'about.json').write_text('{"n_users": "x"}')), ['about.json cannot be read']),
    (lambda f: (write(f, PAIRS), (f/'about.json').write_text('{"n_users": 1000000000000}')), ['1000000000000 users']),
    (lambda f: (write(f, PAIRS), PAIRS[['x_label']].to_parquet(f/'items.parquet')), ['no column itemID']),
    (lambda f: (write(f, PAIRS), (f/'items.parquet').write_text('text')), ['items.parquet cannot be read']),
    (lambda f: (f/'a.inter').write_text('userID\titemID\n0\t1\n'), ['a.inter has no column x_label']),
    (lambda f: (f/'a.inter').write_text(''), ['a.inter cannot be read']),
    (lambda f: (f/'a.inter').write_text('userID\titemID\tx_label\n0\t1\t0\n0\t\t0\n'), ['a.inter has nan as itemID']),
    (lambda f: (f/'train.npy').write_bytes(np.lib.format.MAGIC_PREFIX+b'\x03\x00'), ['train.npy cannot be read']),
    (lambda f: np.save(f/'train.npy', np.ones(3)), ['not rows of (user, item)']),
    (lambda f: (f/'trnMat.pkl').write_bytes(b'\x80\x04.'), ['trnMat.pkl cannot be read']),
    (lambda f: (f/'train.json').write_text('[]'), ['train.json']),
    (lambda f: (f/'notes.txt').write_text('nothing else'), ['in no known format', 'inter.parquet']),
])
def test_bad_folder(tmp_path, break_it, words):
    break_it(tmp_path)
    with pytest.raises(BadInput) as e: load(tmp_path)
    s = str(e.value)
    assert '\n' not in s and str(tmp_path) in s and all(w in s for w in words), s


@pytest.mark.parametrize('change,words', [
    (dict(itemID=[0,1,2,2,1,-3]), 'item ids out of range'), (dict(x_label=[0,0,0,0,0,1]), 'test is empty'),
    (dict(x_label=[2]*6), 'train is empty')])
def test_what_can_be_represented_is_left_to_check(tmp_path, change, words):
    write(tmp_path, PAIRS.assign(**change))
    data = load(tmp_path)
    assert len(check(data))
    with pytest.raises(BadInput, match=words): require_sound(data)


def test_unknown_name(monkeypatch):
    monkeypatch.delenv('CAUSALMMR_DATA', raising=False)
    with pytest.raises(BadInput, match="'ml2m'.*ml1m.*CAUSALMMR_DATA"): load('ml2m')
    assert not any(a['present'] for a in available())


# ---------------------------------------------------------------- features are named

def test_a_file_that_arrives_changes_nothing(real, tmp_path):
    """A fourth matrix in a copy of a registered folder; the version that took all of them had four modalities here."""
    before = real('ml1m')
    shutil.copytree(Path(ROOT)/'ml1m', tmp_path/'ml1m')
    x = np.random.default_rng(0).normal(size=(before.n_items, 8))
    np.savez(tmp_path/'ml1m'/'style.npz', x=x)
    after = load('ml1m', tmp_path)
    assert (after.fingerprint, after.notes, sorted(after.feats)) == (before.fingerprint, before.notes, ['a','t','v'])
    assert 's=style' not in set(not_taken(tmp_path/'ml1m', 3706).ask) and 'style=style' in set(not_taken(tmp_path/'ml1m', 3706).ask)
    asked = load('ml1m', tmp_path, feats=dict(s='style'))
    assert sorted(asked.feats) == ['a','s','t','v'] and asked.fingerprint != before.fingerprint
    assert 's is style, on request' in asked.notes and set(before.notes) < set(asked.notes)


@pytest.mark.parametrize('name,m,file,known,width', [('ml1m', 'v', 'more/poster_efficientnet', 3256, 1280),
                                                     ('baby', 't', 'more/text_minilm', 3416, 384)])
def test_half_known_features(real, tmp_path, name, m, file, known, width):
    """What is missing is part of the value, and what a model sees there is the mean; without its file the set says so."""
    d = real(name)
    x,has = d.feats[m],d.known[m]
    assert x.shape == (d.n_items, width) and int(has.sum()) == known and f'{m} is real for {known} of {d.n_items} items' in d.notes
    assert torch.allclose(x[~has], x[has].mean(0).expand(int((~has).sum()), -1), atol=2e-3)
    assert not torch.allclose(x[has], x[has].mean(0).expand(known, -1), atol=2e-3)
    back = load(convert(d, tmp_path/'out', 'mmrec'))
    assert back.fingerprint == d.fingerprint != replace(d, known={}).fingerprint
    shutil.copytree(Path(ROOT)/name, tmp_path/name, ignore=shutil.ignore_patterns('more'))
    without = load(name, tmp_path)
    assert m not in without.feats and f'{m} is missing: there is no {file}' in without.notes


@pytest.mark.parametrize('name,m,file,known,width', [('ml1m', 'v', 'poster_svd64', 3256, 64)])
def test_real_features_on_request(real, tmp_path, name, m, file, known, width):
    d = real(name)
    if file not in set(not_taken(Path(ROOT)/name, d.n_items).ask.str.split('=').str[-1]): pytest.skip(f'{ROOT}/{name} has no {file}')
    asked = real(name, feats={m:file})
    assert asked.feats[m].shape == (d.n_items, width) and int(asked.known[m].sum()) == known
    assert f'{m} is {file}, on request' in asked.notes and f'{m} is real for {known} of {d.n_items} items' in asked.notes
    assert asked.feats.keys() == d.feats.keys() and asked.fingerprint != d.fingerprint
    back = load(convert(asked, tmp_path/'out', 'mmrec'))
    assert back.fingerprint == asked.fingerprint != replace(asked, known={}).fingerprint


# ---------------------------------------------------------------- a pair counts once

SHOP = toy(0).data

def lists(rows):
    o = np.empty(len(rows), object); o[:] = rows
    return o

def as_parquet(folder, u, i, label): pd.DataFrame(dict(userID=u, itemID=i, x_label=label)).to_parquet(folder/'inter.parquet')

def as_unlabelled(folder, u, i, label): pd.DataFrame(dict(userID=u, itemID=i)).to_parquet(folder/'inter.parquet')

def as_mmrec(folder, u, i, label):
    pd.DataFrame(dict(userID=u, itemID=i, x_label=label)).to_csv(folder/'s.inter', sep='\t', index=False)

def as_movielens(folder, u, i, label):
    (folder/'ratings.dat').write_text(''.join(f'{a}::{b}::5::1\n' for a,b in zip(u, i)))

def as_amazon(folder, u, i, label):
    (folder/'reviews_S.json').write_text(''.join(json.dumps(dict(reviewerID=f'A{a}', asin=f'B{b}'))+'\n' for a,b in zip(u, i)))

def as_lattice(folder, u, i, label):
    for k,s in enumerate(('train','val','test')):
        d = {}
        for a,b in zip(u[label==k].tolist(), i[label==k].tolist()): d.setdefault(a, []).append(b)
        (folder/f'{s}.json').write_text(json.dumps(d))

def as_dmrl(folder, u, i, label):
    for s,k in (('train',label<2), ('test',label==2)):
        pd.DataFrame(dict(userID=u[k], itemID=i[k])).to_csv(folder/f'{s}.csv', index=False)

def as_mmgcn(folder, u, i, label):
    shifted = np.stack([u, i+SHOP.n_users], 1)
    np.save(folder/'train.npy', shifted[label==0])
    for k,s in ((1,'val_full'), (2,'test_full')): np.save(folder/f'{s}.npy', lists(shifted[label==k].tolist()), allow_pickle=True)

def as_diffmm(folder, u, i, label):
    for k,s in enumerate(('trn','val','tst')):
        m = sp.coo_matrix((np.ones((label==k).sum()), (u[label==k], i[label==k])), (SHOP.n_users, SHOP.n_items))
        (folder/f'{s}Mat.pkl').write_bytes(pickle.dumps(m))

def as_microlens(folder, u, i, label):
    pd.DataFrame(dict(user=u, item=i, timestamp=np.arange(len(u)))).to_csv(folder/'s_pairs.csv', index=False)

DRAWN = [as_unlabelled, as_movielens, as_amazon, as_microlens]
GIVEN = [as_parquet, as_mmrec, as_lattice, as_dmrl, as_mmgcn, as_diffmm]

def disjoint(d):
    sets = [as_set(getattr(d, s)) for s in ('train','valid','test')]
    assert sum(map(len, sets)) == len(set.union(*sets)) == sum(getattr(d, s).shape[1] for s in ('train','valid','test'))
    return check(d).query('what.str.contains("duplicate|share")').empty


@pytest.mark.parametrize('write_it', DRAWN+GIVEN, ids=lambda f: f.__name__[3:])
def test_doubled_pairs_are_one_set_in_every_format(tmp_path, write_it):
    """Every pair twice, its second time in another split: as many pairs as without, all splits disjoint."""
    u,i = torch.cat([SHOP.train, SHOP.valid, SHOP.test], 1).numpy()
    label = np.repeat([0,1,2], [x.shape[1] for x in (SHOP.train, SHOP.valid, SHOP.test)])
    loaded = []
    for name,times in (('single',1), ('double',2)):
        (tmp_path/name).mkdir()
        write_it(tmp_path/name, np.tile(u, times), np.tile(i, times), np.concatenate([label, (label+1)%3][:times]))
        loaded.append(load(tmp_path/name))
    single,double = loaded
    assert disjoint(single) and disjoint(double)
    total = lambda d: set.union(*(as_set(getattr(d, s)) for s in ('train','valid','test')))
    assert total(single) == total(double)
    if write_it in DRAWN: assert single.fingerprint == double.fingerprint
    told = [n for n in double.notes if 'a pair counts once' in n or 'in several splits' in n]
    assert (bool(told) or write_it in (as_amazon, as_microlens)) and not any('counts once' in n for n in single.notes)
    if write_it in GIVEN:                                              # a pair of test that training has is not test
        both = as_set(double.train) & as_set(SHOP.test)
        assert both and not both & as_set(double.test)


def test_repeat_purchases_no_longer_cost_recall(tmp_path):
    """LightGCN on the simulator's pairs, each bought twice: the figure of the set without repeats; the wrong twin, a split over rows, loses most of it."""
    u,i = torch.cat([SHOP.train, SHOP.valid, SHOP.test], 1).numpy()
    twice = [np.tile(x, 2) for x in (u, i)]
    for name,(a,b) in dict(single=(u, i), double=twice).items():
        (tmp_path/name).mkdir()
        as_unlabelled(tmp_path/name, a, b, None)
    label = per_user_split(*twice, np.random.default_rng(42))
    pairs = torch.tensor(np.stack(twice))
    cut = [pairs[:,torch.tensor(label==k)] for k in range(3)]
    rows = replace(load(tmp_path/'single'), train=cut[0], valid=cut[1], test=cut[2])
    figure = {}
    for name,d in dict(single=load(tmp_path/'single'), double=load(tmp_path/'double'), rows=rows).items():
        m = LightGCN(d, rng(0), d=16, L=2)
        fit(m, d, epochs=30, batch=512, lr=.01, patience=5, progress=False)
        figure[name] = evaluate(m, d, ks=(20,), metrics=('recall',)).mean()['recall@20']
    print(figure)
    assert figure['double'] == figure['single'] > 2*figure['rows']


# ---------------------------------------------------------------- the real sets

@pytest.mark.parametrize('name', SIZES)
def test_real_sizes(real, name):
    d = real(name)
    row = describe(d).iloc[0]
    assert (row.users, row['items'], row.train, row.valid, row.test) == SIZES[name]
    assert row.modalities == WIDTHS[name]
    assert all(x.dtype==torch.float32 and x.is_contiguous() for x in d.feats.values())
    assert all(x.dtype==torch.int64 and x.is_contiguous() for x in (d.train, d.valid, d.test))
    problems = check(require_sound(d))
    found = [(r['where'], r['what'], r['count']) for r in problems.to_dict('records')]
    assert found == ([('train', 'users without training pairs', 10)] if name=='tiktok' else [])
    assert not any(c.startswith('u_') for c in (d.users if d.users is not None else []))


def test_the_posters_that_results_name(real):
    """The results page tells old rows from new ones by the fingerprint; only the posters and their mask separate the two."""
    new,old = real('ml1m'),replace(real('ml1m', feats=dict(v='poster_svd64')), known={})
    assert f"NOW = '{new.fingerprint[:8]}'" in (Path(__file__).parent.parent/'nbs'/'results.ipynb').read_text()
    assert old.fingerprint == '9c13178c843b4458' and torch.equal(old.train, new.train) and torch.equal(old.feats['t'], new.feats['t'])


def test_real_notes_and_arrays(real):
    d = real('ml1m')
    assert sum('substitute' in n for n in d.notes) == 2 and any("FMMRec's" in n for n in d.notes)
    assert {k:tuple(array('ml1m', k).shape) for k in ('lattice_user','lattice_item','biased_a','filtered_a')} == \
        dict(lattice_user=(6040,64), lattice_item=(3706,64), biased_a=(3706,128), filtered_a=(3706,128))
    assert int(array('ml1m', 'poster_svd64', 'has').sum()) == 3256
    attacked = d.users[d.users.attacker_test==1]                       # the shares that FMMRec's log implies
    assert len(attacked) == 1208
    shares = [(attacked[k]==v).mean() for k,v in (('gender',1), ('age',2), ('occupation',4))]
    assert [round(float(p), 4) for p in shares] == [.7219, .3526, .1374]
    assert any('carved' in n for n in real('toys').notes) and not any('carved' in n for n in real('sports').notes)


def test_coat_is_an_experiment(real):
    """The uniform part meets the chosen one as often as chance would, and nothing of it is learned from or chosen on."""
    d = real('coat')
    raw = pd.read_parquet(Path(ROOT)/'coat'/'ratings.parquet')
    chosen,uniform = (as_set(torch.tensor(raw.loc[raw.shown==s, ['userID','itemID']].to_numpy().T)) for s in ('chosen','uniform'))
    assert (len(chosen), len(uniform), len(chosen & uniform)) == (6960, 4640, 366)
    assert abs(len(chosen & uniform) - 16*290*24/300) < 3*(290*16*.08*.92)**.5
    for part in (d.train, d.valid, d.liked('home')): assert as_set(part) <= chosen
    assert as_set(d.test) <= uniform - chosen and as_set(d.test) == as_set(d.liked('test'))
    held = d.ratings.groupby('part').size()
    assert held.to_dict() == dict(train=4640, valid=1160, home=1160, test=4274)
    assert not as_set(d.liked('home')) & (as_set(d.train) | as_set(d.valid))
    assert abs(float(d.propensity.sum()) - 6961.6) < .1 and any(n.startswith('366 pairs stood') for n in d.notes)
    mean = raw.groupby('shown').rating.mean()
    assert mean.round(2).to_dict() == dict(chosen=2.61, uniform=2.23)
    assert set(d.users) == {'gender','age','location','fashioninterest','attacker_test'} and d.users.attacker_test.sum() == 58
    other = real('coat', split_seed=43)
    assert as_set(other.test) == as_set(d.test) and as_set(other.train) != as_set(d.train)
    assert real('coat').fingerprint == d.fingerprint != other.fingerprint


def test_ml1m_split_is_the_rule_user_by_user(real):
    """Counted again with Python's own arithmetic, per user."""
    d = real('ml1m')
    n = {s:Counter(getattr(d, s)[0].tolist()) for s in ('train','valid','test')}
    for u in range(d.n_users):
        total = sum(c[u] for c in n.values())
        held = int(.2*total)
        valid,test = (held//2, held-held//2) if total >= 10 else (1, 1)
        assert (n['valid'][u], n['test'][u]) == (valid, test)
    other = real('ml1m', split_seed=43)
    assert other.train.shape == d.train.shape and other.fingerprint != d.fingerprint == real('ml1m').fingerprint


def test_toys_validation_leaves_every_user_a_pair(real):
    d = real('toys')
    assert len(d.train[0].unique()) == d.n_users


def test_movielens_raw_files_give_the_same_set(real, tmp_path):
    """ratings.dat rebuilt from the real pairs and movie ids: same ids, same seed, same split, same attributes."""
    d = real('ml1m')
    inter = pd.read_parquet(Path(ROOT)/'ml1m'/'inter.parquet').astype(int)
    movie = d.items.movie_id.to_numpy()[inter.itemID]
    (tmp_path/'ratings.dat').write_text(''.join(f'{u}::{m}::5::978300760\n' for u,m in zip(inter.userID+1, movie)))
    young = {v:k for k,v in AGES.items()}
    users = [f'{k+1}::{"FM"[r.gender]}::{young[r.age]}::{r.occupation}::00000' for k,r in d.users.iterrows()]
    (tmp_path/'users.dat').write_text('\n'.join(users[::-1])+'\n')
    movies = [f'{r.movie_id}::{r.title}::{r.genres}' for r in d.items.sort_values('movie_id').itertuples()]
    (tmp_path/'movies.dat').write_bytes('\n'.join(movies).encode('latin-1'))
    raw = load(tmp_path)
    assert all(torch.equal(getattr(raw, s), getattr(d, s)) for s in ('train','valid','test'))
    for k in ('gender','age','occupation'): assert raw.users[k].tolist() == d.users[k].tolist()
    for k in ('movie_id','title','genres'): assert raw.items[k].tolist() == d.items[k].tolist()


@pytest.mark.parametrize('to', ['mmrec','parquet'])
@pytest.mark.parametrize('name', ['tiktok','baby','toys'])
def test_real_round_trip(real, tmp_path, name, to):
    d = real(name)
    back = load(convert(d, tmp_path/'out', to))
    assert (back.fingerprint, back.notes, back.name) == (d.fingerprint, d.notes, d.name)


def test_real_set_in_the_papers_formats(real, tmp_path):
    """TikTok rewritten as LATTICE, MMGCN and DiffMM release theirs: the same pairs come back, fast."""
    d = real('tiktok')
    lists = {s:{u:[] for u in range(d.n_users)} for s in ('train','valid','test')}
    for s in lists:
        for u,i in as_set(getattr(d, s)): lists[s][u].append(i)
    for f in ('lattice','mmgcn','diffmm'): (tmp_path/f).mkdir()
    for s,file in (('train','train'), ('valid','val'), ('test','test')):
        (tmp_path/'lattice'/f'{file}.json').write_text(json.dumps(lists[s]))
    shift = torch.tensor([[0],[d.n_users]])
    np.save(tmp_path/'mmgcn'/'train.npy', (d.train+shift).T.numpy())
    for s,file in (('valid','val_full'), ('test','test_full')):
        rows = [[u, *(i+d.n_users for i in items)] for u,items in lists[s].items() if items]
        o = np.empty(len(rows), object); o[:] = rows
        np.save(tmp_path/'mmgcn'/f'{file}.npy', o, allow_pickle=True)
    for m in 'va': torch.save(d.feats[m], tmp_path/'mmgcn'/f'feat_{m}.pt')
    for s,file,kind in (('train','trn',sp.coo_matrix), ('valid','val',sp.csr_matrix), ('test','tst',sp.csc_matrix)):
        u,i = getattr(d, s).numpy()
        m = kind((np.ones(len(u)), (u,i)), (d.n_users, d.n_items))
        (tmp_path/'diffmm'/f'{file}Mat.pkl').write_bytes(pickle.dumps(m))
    for f in ('lattice','mmgcn','diffmm'):
        start = time.perf_counter()
        back = load(tmp_path/f)
        assert same_pairs(back, d) and (back.n_users, back.n_items) == (d.n_users, d.n_items), f
        assert time.perf_counter()-start < 5, f
    assert torch.equal(load(tmp_path/'mmgcn', feats=dict(v='feat_v')).feats['v'], d.feats['v'])


def test_real_files_broken(real, tmp_path):
    real('baby')
    whole = (Path(ROOT)/'baby'/'inter.parquet').read_bytes()
    for cut in (0, 100, len(whole)//2, len(whole)-1):
        (tmp_path/'inter.parquet').write_bytes(whole[:cut])
        with pytest.raises(BadInput, match='inter.parquet cannot be read'): load(tmp_path)


def test_real_faults_are_found(real):
    d = real('tiktok')
    x = d.feats['v'].clone(); x[[5,9],3] = float('nan')
    train = d.train.clone(); train[1,7] = d.n_items
    broken = replace(d, train=train, feats=dict(v=x, a=d.feats['a'][1:]))
    found = [(r['where'], r['what'].split(' ')[0], r['count']) for r in check(broken).to_dict('records')]
    assert {('train','item',1), ('v','rows',2), ('a','feature',1)} <= set(found)


def test_real_baby_is_fast(real):
    best = lambda f: min(((t:=time.perf_counter()), f(), time.perf_counter()-t)[2] for _ in range(3))
    d = real('baby')
    assert best(lambda: load('baby')) < 1 and best(lambda: d.fingerprint) < .5 and best(lambda: check(d)) < 1


def test_available_real(real):
    real('baby')
    assert {a['name'] for a in available() if a['present']} <= set(SIZES)
    assert next(a for a in available() if a['name']=='baby')['present']
