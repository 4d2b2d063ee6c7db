"""AD-DRL and DMRL at the sizes of the paper's data sets: parameters to the unit, losses where nothing is known; ranking against the expanded form; runs, the shell, real sets."""
import json, math
from dataclasses import replace
import numpy as np, pandas as pd, pytest, torch, torch.nn.functional as F
from sklearn.metrics import mutual_info_score
from causalmmr.causal.scm import toy
from causalmmr.data import BadInput, MMData
from causalmmr.formats import load
from causalmmr.chunks import attributes, chunk_matrix, missing, own_or_other, separation
from causalmmr.models.addrl import ADDRL, Steered, as_released, chunks_of, labels_of, recommend, terms
from causalmmr.models.selfsup import DMRL
from causalmmr.store import load_run, run
from causalmmr.train import evaluate, fit, rng

def sized(U, I, widths, **classes):
    "A data set of these sizes whose contents do not matter; features have their full width and no memory."
    few = torch.tensor([[0, 1], [1, 0]])
    items = pd.DataFrame({f'{k}_label': (np.arange(I) % n).astype(str) for k,n in classes.items()})
    return MMData('sized', U, I, few, few, few, {m: torch.zeros(1, 1).expand(I, d) for m,d in widths.items()}, items)

TOYS = dict(price=5, salesrank=5, brand=1288, category=19)

def test_parameters_of_the_released_model_on_toys():
    m = ADDRL(sized(18_748, 11_673, dict(t=512, v=1024), **TOYS), rng(0))
    assert sum(p.numel() for p in m.parameters() if p.requires_grad) == 5_157_672
    parts = dict(tables=(18_748+11_673)*160, projections=(512+1)*160+(1024+1)*160, chunk_heads=4*33*5, attention=33*3+4*3, value_heads=33*(5+5+1288+19))
    assert sum(parts.values()) == 5_157_672 and m.chunks == ['price', 'popularity', 'brand', 'category', 'rest']

@pytest.mark.parametrize('classes,chunks,want', [(dict(price=5, salesrank=5, brand=663), 4, dict(intra=44.36, inter=66.54, low=19.43)),
                                                 (dict(price=5, salesrank=5, brand=2081, category=18), 5, dict(intra=64.38, inter=96.57, low=27.50))], ids=['baby', 'sports'])
@pytest.mark.parametrize('released', [False, True])
def test_losses_at_uniform_logits(classes, chunks, want, released):
    m = ADDRL(sized(500, 2500, dict(t=8, v=8), **classes), rng(0), released=released); g = rng(1)
    for p in m.parameters(): p.data.zero_()
    draw = lambda n, *shape: torch.randint(n, shape, generator=g)
    u, i, j = draw(500, 1024), draw(2500, 1024), draw(2500, 1024, 4)
    l = {k: float(v.detach()) for k,v in m.losses(u, i, j).items()}
    assert len(m.chunks) == chunks and all(abs(l[k]-x) < 6e-3 for k,x in want.items())
    assert abs(l['rank']/(1024 if released else 1)-math.log(2)) < 1e-5 and l['reg'] == 0
    total = l['rank'] + (want['intra']*1 + want['inter']*.01 + want['low']*10)/(1 if released else 1024)
    assert abs(m.loss(u, i, j).item()/total-1) < 1e-3

def expanded(m, users):
    "Every pair by itself, all views repeated, in double precision and with loops over chunks: nothing shared with the fast form."
    x, out = m.x_u.detach().double(), torch.zeros(len(users), len(m.x_i), dtype=torch.double)
    W = [(p.weight.detach().double(), p.bias.detach().double()) for p in m.project]; a,b = (l.weight.detach().double() for l in (m.W1, m.W2)); c,e = (l.bias.detach().double() for l in (m.W1, m.W2))
    views = [m.x_i.detach().double()] + [getattr(m, f'f{k}').double()@w.T+z for k,(w,z) in enumerate(W)]
    for k in range(len(m.chunks)):
        at = slice(k*m.c, (k+1)*m.c); v = torch.stack([z[:,at] for z in views]); h = v.sum(0); h = h/h.norm(dim=1, keepdim=True)
        alpha = torch.softmax(torch.tanh(h@a.T+c)@b.T+e, 1)
        if m.released: alpha = torch.softmax(alpha, 1)
        g = sum(alpha[:,s,None]*v[s]/v[s].norm(dim=1, keepdim=True) for s in range(len(views)))
        u = x[users][:,at]; u = u/u.norm(dim=1, keepdim=True)
        for r in range(len(users)): out[r] += F.softplus((u[r]*g).sum(1))
    return out

@pytest.mark.parametrize('hp', [dict(), dict(released=True), dict(attributes=('brand',), rest=3), dict(c=5, bins=3)], ids=['default', 'released', 'one attribute', 'odd width'])
def test_scores_are_those_of_the_expanded_form(hp):
    for feats in ('t', 'vt', 'vta'):
        d = toy().data; d = replace(d, feats={k: d.feats[k] for k in feats}); m = ADDRL(d, rng(2), **dict(c=8) | hp).eval(); users = torch.arange(0, 200, 7)
        with torch.no_grad(): fast = m.scores(users)
        assert (fast-expanded(m, users)).abs().max() < 1e-5
        assert (terms(m, users, users % d.n_items).sum(1)-fast[torch.arange(len(users)), users % d.n_items]).abs().max() < 1e-5

def test_ranking_is_that_of_the_expanded_form():
    d = toy().data; m = ADDRL(d, rng(1), c=8); fit(m, d, epochs=2, batch=1024, lr=.02, progress=False)
    class Slow(Steered):
        def scores(self, u): return expanded(self.model, u).float()
    a, b = (evaluate(x, d, ks=(20,)).mean() for x in (m, Slow(m, {})))
    assert all(abs(a[k]-b[k]) < 1e-6 for k in a)

@pytest.mark.parametrize('M,hp', [(ADDRL, dict(c=4)), (ADDRL, dict(c=4, released=True, told=.6)), (DMRL, dict(d=16, hidden=8, rows=32)), (DMRL, dict(d=16, hidden=8, released=True))], ids=['addrl', 'addrl released', 'dmrl', 'dmrl released'])
def test_an_interrupted_run_ends_with_the_same_bits(M, hp, tmp_path):
    data = toy().data
    def go(epochs, ckpt=None):
        m = M(data, rng(3), **hp); fit(m, data, epochs=epochs, batch=1024, lr=.01, ckpt=ckpt, ckpt_seconds=0, progress=False); return m
    whole = go(3)
    for e in (1, 3): broken = go(e, tmp_path/'c.safetensors')
    assert all(torch.equal(a, b) for a,b in zip(whole.state_dict().values(), broken.state_dict().values()))
    assert torch.equal(*(evaluate(m, data, ks=(10,)).top for m in (whole, broken)))

def test_attributes_of_the_released_files():
    "The label file of AD-DRL's release beside DMRL's csv: sizes from the data, an unlabelled item is unknown and no crash."
    items = pd.DataFrame(dict(asin=list('abcd'), price_label=[0, 1, np.nan, 1], salesrank_label=[2, 2, 0, 1], brand_label=['x', None, 'y', 'x']))
    few = torch.tensor([[0, 1, 2, 0], [0, 1, 2, 3]]); d = MMData('labels', 3, 4, few, few, few, {'t': torch.ones(4, 3)}, items)
    A = attributes(d)
    assert {n: len(a.names) for n,a in A.items()} == dict(price=3, popularity=3, brand=3) and [A[n].names[-1] for n in ('price', 'brand')] == ['unknown']*2
    assert A['price'].value.tolist() == [0, 1, 2, 1] and A['brand'].value[1] == 2 and missing(d) == ('labels has no category: there is no chunk for it',)
    with pytest.raises(BadInput, match="no item attribute 'colour'; it has"): attributes(d, ['colour'])
    assert ADDRL(d, rng(0), c=4).chunks == ['price', 'popularity', 'brand', 'rest']

def test_probes_find_what_is_planted_and_nothing_else():
    g = rng(0); n = 800; y = {a: torch.randint(5, (n,), generator=g) for a in ('price', 'brand')}; held = torch.arange(n) % 4 == 0
    chunks = {a: F.one_hot(v, 5).float() @ torch.randn(5, 6, generator=g) + .5*torch.randn(n, 6, generator=g) for a,v in y.items()}
    o = own_or_other(chunk_matrix(chunks, y, held)).set_index('attribute')
    assert (o.lo > .3).all() and (o.best_other-o.chance).abs().max() < .15
    r = chunk_matrix(chunks, y, held).table.set_index(['chunk', 'attribute']).information
    assert r['price', 'price'] > .6 > .1 > r['brand', 'price'] and mutual_info_score(y['price'].numpy(), y['brand'].numpy()) < .05
    same = {k: torch.cat(list(chunks.values()), 1) for k in y}
    assert abs(separation(same, y, held)['own_gap']) < 1e-6

def test_selection_on_test_says_so_and_is_another_run():
    d = toy().data; r = as_released(d)
    assert torch.equal(r.valid, d.test) and 'no claim' in r.notes[-1] and 'chosen on test' in r.name and r.fingerprint != d.fingerprint

def test_from_the_shell(here, tmp_path):
    run = ['train', 'causalmmr.models.addrl:ADDRL', 'toy', '-p', 'c=4', '-p', 'epochs=2', '-p', 'batch=1024', '--out', tmp_path]
    r = here(*run, '--json'); assert r.returncode == 0, r.stderr
    top = here('recommend', json.loads(r.stdout)['run'], '--user', '3', '-k', '5', '--out', tmp_path); assert top.returncode == 0, top.stderr
    wrong = here(*run, '-p', "attributes=('colour',)"); assert wrong.returncode == 2 and "no item attribute 'colour'" in wrong.stderr and 'Traceback' not in wrong.stderr

def test_dmrl_runs_and_comes_back(tmp_path):
    row = run(DMRL, toy().data, seed=0, out=tmp_path, progress=False, d=16, hidden=8, rows=32, epochs=2, batch=1024)
    m, d, _ = load_run(row['folder']); assert abs(evaluate(m, d, ks=(20,)).mean()['recall@20']-row['test recall@20']) < 1e-6
    with pytest.raises(BadInput, match='multiple of factors'): run(DMRL, d, seed=0, out=tmp_path, progress=False, d=10)

@pytest.mark.parametrize('name,categories', [('toys', 19), ('sports', 18)])
def test_real_sets_have_these_attributes(real_data, name, categories):
    d = load(name, data_dir=real_data); A = attributes(d)
    assert list(A) == ['popularity', 'brand', 'category'] and len(A['category'].names) == categories and missing(d) == (f'{name} has no price: there is no chunk for it',)
    n = torch.bincount(d.train[1], minlength=d.n_items); pop = A['popularity']
    assert ((pop.value == len(pop.names)-1) == (n == 0)).all() if pop.names[-1] == 'unknown' else (n > 0).all()
    seen = n > 0; order = pd.Series(n[seen].numpy()).groupby(pop.value[seen].numpy()).agg(['min', 'max']); assert (order['min'].values[1:] > order['max'].values[:-1]).all()
    m = ADDRL(d, rng(0), c=8); top, _ = recommend(m, d, [0, 1], 10, {'brand': 2.})
    assert top.shape == (2, 10) and list(chunks_of(m)) == m.chunks == ['popularity', 'brand', 'category', 'rest'] and list(labels_of(m)) == m.chunks[:3]
