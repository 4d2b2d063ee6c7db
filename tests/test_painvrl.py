"""InvRL and PaInvRL as runs: interrupted searches and runs, real sizes, both halves of a mask, and figures against an independent judge."""
import json
from dataclasses import replace
from pathlib import Path
import numpy as np, pytest, torch
from causalmmr.invariant import search
from causalmmr.causal.scm import toy
from causalmmr.data import BadInput, MMData
from causalmmr.formats import load
from causalmmr.invariant.environments import abroad, by_test, cluster, fit_tilts, judge
from causalmmr.invariant.search import CORRECTED, PARETO, RELEASED, MaskSearch, Stage, find_mask, stage
from causalmmr.models.painvrl import ContentUltraGCN, InvRL, PaInvRL, family_metrics, mask_of
from causalmmr.store import kept, load_run, run
from causalmmr.train import evaluate, fit, rng

SHORT = dict(E=3, ite=2, f_epochs=1, f_rounds=1, f_restarts=1, epochs=1, pre_epochs=1, batch=256, pre_batch=512)
SMALL = dict(d=8, n_neg=4, search=SHORT)
KNOWN = [(InvRL, [0.508605, 0.446215, 0.457088, 0.462106], 34.4822),
         (PaInvRL, [0.528257, 0.519136, 0.438797, 0.461522], 36.8325)]                # first columns of a mask, sum of all: as the code before found them

@pytest.fixture(scope='module')
def data(): return toy(env_shift=3.).data

@pytest.mark.parametrize('M', [InvRL, PaInvRL])
@pytest.mark.parametrize('how', [RELEASED, CORRECTED], ids=['released', 'corrected'])
def test_an_interrupted_run_ends_with_the_same_bits_and_does_not_search_again(data, M, how, tmp_path, monkeypatch):
    def go(epochs, ckpt=None):
        m = M(data, rng(3), **SMALL | dict(search=how.but(SHORT))); fit(m, data, epochs=epochs, batch=512, lr=.01, patience=9, ckpt=ckpt, ckpt_seconds=0, progress=False); return m
    whole = go(3); go(1, tmp_path/'c.safetensors')
    monkeypatch.setattr(M, 'find', lambda *a, **k: pytest.fail('searched again'))
    broken = go(3, tmp_path/'c.safetensors')
    assert all(torch.equal(a, b) for a,b in zip(whole.state_dict().values(), broken.state_dict().values())) and not torch.equal(whole.mask, torch.ones_like(whole.mask))

def test_a_mask_is_a_setting_and_a_run_loads(data, tmp_path):
    base = ContentUltraGCN(data, rng(0), 8, 4).requires_grad_(False)
    mask, labels, log = mask_of(PaInvRL, data, 0, base, **SMALL)
    assert mask_of(PaInvRL, data, 0, base, **SMALL)[0] == mask and log.iteration.max() == 2 and len(labels) == data.train.shape[1]
    own = dict(d=8, n_neg=4, epochs=2, batch=512)
    row = run(PaInvRL, data, seed=0, out=tmp_path, progress=False, mask=mask, **own)
    model, _, again = load_run(row['folder'], data=data)
    assert again['run'] == row['run'] and abs(evaluate(model, data, ks=(20,)).mean()['recall@20']-row['test recall@20']) < 1e-6
    assert run(PaInvRL, data, seed=0, out=tmp_path, progress=False, mask=tuple(1-m for m in mask), **own)['run'] != row['run']

def test_a_mask_of_older_code_other_data_or_another_backbone_is_not_read(data, tmp_path, monkeypatch):
    "The negatives of the back end, four calls below the search, decide the mask; so they decide the name under which it is kept."
    base = ContentUltraGCN(data, rng(0), 8, 4).requires_grad_(False)
    def keep(data=data, base=base): return kept('mask', mask_of, InvRL, data, 0, base, out=tmp_path, **SMALL)[0]
    def there(): return len([f for f in (tmp_path/'kept').iterdir() if not f.name.startswith('.')])
    first = keep()
    assert keep() == first and there() == 1
    turned = ContentUltraGCN(data, rng(0), 8, 4).requires_grad_(False)
    turned.U.copy_(turned.U.flip(0))                                    # the same sum of all weights
    assert keep(base=turned) != first and keep(data=replace(data, train=data.train[:,:-9])) != first and there() == 3
    was = search.endless
    def item_0(pairs, n_items, batch, n_neg, g):
        for u, j in was(pairs, n_items, batch, n_neg, g):
            j[:,1:] = 0
            yield u, j
    monkeypatch.setattr(search, 'endless', item_0)
    assert keep() != first and there() == 4
    monkeypatch.undo()
    assert keep() == first and there() == 4

@pytest.mark.parametrize('hp, word', [(dict(mask=(.5,)), 'feature column'), (dict(attention='all'), 'item, global'), (dict(search=dict(front='luck')), 'released, corrected'), (dict(search=dict(fronts='tilt')), "no setting 'fronts'")])
def test_settings_that_mean_nothing_are_refused(data, hp, word):
    with pytest.raises(BadInput, match=word):
        PaInvRL(data, rng(0), **SMALL | hp)                              # before anything is trained
    with pytest.raises(BadInput, match='modality'): InvRL(replace(data, feats={}), rng(0))

def test_masks_are_those_that_were_found_before_the_search_had_a_page_of_its_own(data):
    "Another order of the draws, another default, or a setting that does not arrive would give other masks; the last digits are the machine's."
    base = ContentUltraGCN(data, rng(0), 8, 4).requires_grad_(False)
    short = SHORT | dict(f_rounds=2, epochs=2, lr=.02, pre_epochs=2)
    for M, first, total in KNOWN:
        mask = mask_of(M, data, 3, base, d=8, n_neg=4, search=short)[0]
        assert np.allclose(mask[:4], first, atol=1e-4) and abs(sum(mask)-total) < 1e-3

def test_the_search_of_a_run_is_one_setting_that_a_store_and_a_shell_can_hold(data, tmp_path, here):
    "Complete in the run's file, whatever was given; two ways to say the same are one run; `train` searches by itself."
    own = dict(d=8, n_neg=4, epochs=1, batch=512)
    row = run(InvRL, data, seed=0, out=tmp_path, progress=False, search=SHORT, **own)
    held = json.loads((Path(row['folder'])/'run.json').read_text())['settings']['search']
    assert MaskSearch(**held) == RELEASED.but(SHORT) and (held['E'], held['how']) == (3, 'sum')
    assert run(InvRL, data, seed=0, out=tmp_path, progress=False, search=MaskSearch(**SHORT), **own)['run'] == row['run']
    model = load_run(row['folder'], data=data)[0]
    assert model.search == MaskSearch(**held) and not torch.equal(model.mask, torch.ones_like(model.mask))
    assert run(InvRL, data, seed=0, out=tmp_path, progress=False, search=SHORT | dict(E=2), **own)['run'] != row['run']
    args = ['train', 'PaInvRL', 'toy', '--out', tmp_path, '-p', f'search={SHORT}', '-p', 'd=8', '-p', 'n_neg=4', '-p', 'epochs=1', '-p', 'eval_every=1', '-p', 'batch=512']
    told = here(*args)
    assert told.returncode == 0, told.stderr
    wrong = here('train', 'PaInvRL', 'toy', '--out', tmp_path, '-p', "search={'front': 'luck'}")
    assert wrong.returncode and 'released, corrected, tilt, random' in wrong.stderr and 'Traceback' not in wrong.stderr

def test_released_ndcg_is_that_of_scikit_learn_over_hits(data):
    "An independent judge: the standard NDCG by scikit-learn, and the released one from its definition."
    from sklearn.metrics import ndcg_score
    m = ContentUltraGCN(data, rng(1), 8, 4).eval().requires_grad_(False); got = family_metrics(m, data)
    s = m.scores(torch.arange(data.n_users)).double().numpy(); s[tuple(data.train.numpy())] = -1e9
    y = np.zeros_like(s); y[tuple(data.test.numpy())] = 1; u = y.sum(1) > 0
    assert abs(got['ndcg@10']-np.mean([ndcg_score(y[k:k+1], s[k:k+1], k=10) for k in np.flatnonzero(u)])) < 1e-4
    hit = np.take_along_axis(y, np.argsort(-s, 1)[:,:10], 1)[u]; w = 1/np.log2(np.arange(2, 12)); best = np.array([w[:int(h)].sum() for h in hit.sum(1)])
    assert abs(got['ndcg_hits@10']-np.mean(np.divide((hit*w).sum(1), best, out=np.zeros(len(best)), where=best > 0))) < 1e-5
    assert got['ndcg_hits@10'] >= got['ndcg@10'] and {f'{n}@{k}' for n in ('precision', 'recall', 'ndcg', 'ndcg_hits') for k in (1, 5, 10)} == set(got)

def test_the_tests_are_the_same_for_every_method(data):
    from causalmmr.models.multimodal import side_by_side
    tilts = fit_tilts(side_by_side(data), data.train, data.n_users, 2, rng(0), restarts=1, rounds=3)
    groups = tilts.labels(side_by_side(data), data.test)
    a, b = (abroad(data, groups, tilts.labels(side_by_side(data), data.train)) for _ in range(2))
    for k in a:
        assert torch.equal(a[k].test, b[k].test) and all(torch.equal(a[k].feats[m], b[k].feats[m]) for m in data.feats)
    m = ContentUltraGCN(data, rng(0), 8, 4).eval().requires_grad_(False)
    def on(d):
        t = ContentUltraGCN(d, rng(5), 8, 4)
        t.load_state_dict(m.state_dict())
        return t.eval()
    j = by_test(judge(m, a, on, (20,), ('recall',)), 'recall@20')
    assert j['features shifted'] != j['home'] and j['environments, worst'] <= j['environments, mean'] and 'rare items, @12' in j
    assert sum(len(v.test[0]) for k,v in a.items() if k.startswith('environment')) == len(groups)

def test_large_batches_take_another_way_to_the_same_mask(data):
    "Projecting the users or the catalogue is a matter of cost. Risks, their gradients, and the gates' gradient of the penalty are those of scores written out in full."
    base = ContentUltraGCN(data, rng(0), 8, 4).requires_grad_(False).double()
    g, D, I = rng(2), base.x.shape[1], data.n_items
    W = (.3*torch.randn(8, D, generator=g, dtype=torch.float64)).requires_grad_()
    z = torch.rand(2, D, generator=g, dtype=torch.float64).requires_grad_()
    few = [(data.train[0,k::99], torch.randint(I, (len(data.train[0,k::99]), 5), generator=g)) for k in (0, 1)]
    many = [(u.repeat(50), j.repeat(50, 1)) for u,j in few]
    assert sum(j.numel() for _,j in few) <= 4*I < sum(j.numel() for _,j in many)          # the two ways
    def in_full(W, z): # [2,8,D] copies, [2,D] -> [2]
        out = []
        for (u,j), w, k in zip(few, W, z):
            y = (base.U[u]@torch.cat([base.V, (base.x*k)@w.T], 1).T).gather(1, j)
            om = 1+base.b_u[u][:,None]*base.b_i[j]
            loss = torch.nn.functional.softplus
            out.append((om[:,0]*loss(-y[:,0]) + (om[:,1:]*loss(y[:,1:])).mean(1)).mean())
        return torch.stack(out)
    def told(risks): # -> risks, gradients of W by environment, the penalty's gradient in the gates
        copies = W.expand(2, 8, D)
        r = risks(copies, z)
        G, = torch.autograd.grad(r.sum(), copies, create_graph=True)
        return r, G, *torch.autograd.grad((G-G.mean(0)).pow(2).sum(), (z, W))
    one = torch.ones(2, dtype=torch.float64)
    want = told(in_full)
    for at in (few, many):
        for a, b in zip(told(lambda w, k: stage(base, at, True).risks(w, k, one)), want): assert (a-b).abs().max() < 1e-10*max(1, b.abs().max())
    assert want[2].abs().max() > 1e-6 and isinstance(stage(base, few, True), Stage)

def test_search_at_the_size_of_tiktok(real_data):
    "No users x items table, and minutes, not hours: one round of fronts and two steps of the back end on the real set."
    data = load('tiktok', data_dir=real_data); assert (data.n_users, data.n_items, sorted(data.feats)) == (9308, 6710, ['a', 'v'])
    base = ContentUltraGCN(data, rng(0), 16, 4).requires_grad_(False); part = data.train[:,::8]
    small = replace(data, train=part)
    for how in (RELEASED, PARETO):
        short = how.but(dict(E=4, ite=1, epochs=1, batch=2048, f_epochs=1, f_rounds=1, f_restarts=1))
        mask, labels, log = find_mask(base, small, rng(0), short)
        assert mask.shape == (256,) and len(labels) == part.shape[1] and log.erm.notna().all()

def test_the_large_format_of_the_release_feeds_the_models(tmp_path):
    "train.npy, val_full.npy and feat_*.pt, as InvRL's repository has them: loaded without a pickle, trained for an epoch."
    r = np.random.default_rng(0); U, I = 30, 20
    pairs = np.array([(u, U+i) for u in range(U) for i in r.choice(I, 6, replace=False)])
    held = {u: pairs[pairs[:,0] == u][-2:,1] for u in range(U)}
    np.save(tmp_path/'train.npy', np.array([p for p in pairs if p[1] not in held[p[0]]]))
    for k,name in enumerate(('val_full.npy', 'test_full.npy')): np.save(tmp_path/name, np.array([[u, int(held[u][k])] for u in range(U)], dtype=object), allow_pickle=True)
    for m in 'va': torch.save(torch.randn(I, 8, generator=rng(0)), tmp_path/f'feat_{m}.pt')
    data = load(str(tmp_path), feats=dict(v='feat_v', a='feat_a'))
    assert isinstance(data, MMData) and (data.n_users, data.n_items, sorted(data.feats)) == (U, I, ['a', 'v']) and data.valid.shape[1] == U
    m = ContentUltraGCN(data, rng(0), 4, 3); fit(m, data, epochs=1, batch=32, progress=False)
    lab, log = cluster(m.x, data.train, U, 2, (m.b_u, m.b_i), rng(0), epochs=1, rounds=1, batch=16, n_neg=3, d=4)
    assert len(lab) == data.train.shape[1] and log.filter(like='size').sum(axis=1).iloc[0] == len(lab)
