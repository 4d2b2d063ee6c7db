"The simulator at its edges: sizes, processes, bad settings, and whether a model can learn from it."
import hashlib, math, os, subprocess, sys
import pytest, torch
from causalmmr.causal.scm import Shop, WORLDS, confounded, descendants, mediated, shown, simulate, smoke, source, toy, world
from causalmmr.data import BadInput, check

def python(code, **env): # run in a process of its own
    r = subprocess.run([sys.executable, '-c', code], env=os.environ | env, capture_output=True, text=True, timeout=300)
    assert r.returncode == 0, r.stderr
    return r.stdout.split()

@pytest.mark.parametrize('name', WORLDS)
def test_data_is_sound(name):
    w = world(name)
    d = w.data
    found = check(d)
    assert not len(found) or not found.what.str.contains('range|NaN|overlap|duplicate|without', case=False).any(), found.to_string()
    key = torch.cat([x[0]*d.n_items+x[1] for x in (d.train, d.valid, d.test)])
    assert len(key.unique()) == len(key)                                  # no click is in two splits, or twice in one
    assert torch.bincount(d.train[0], minlength=d.n_users).min() >= 3
    for test in (w.uniform_test, w.ood_test):
        known = torch.cat([x[0]*d.n_items+x[1] for x in (d.train, d.valid)])
        assert test.shape[1] > 0 and not torch.isin(test[0]*d.n_items+test[1], known).any()

def test_same_in_every_process():
    code = 'from causalmmr.causal.scm import smoke; w = smoke(3); print(w.data.fingerprint, w.uniform_test.sum().item(), w.flip("gender").data.fingerprint)'
    other = python(code, PYTHONHASHSEED='7', OMP_NUM_THREADS='2')
    w = smoke(3)
    assert other == [w.data.fingerprint, str(w.uniform_test.sum().item()), w.flip('gender').data.fingerprint]
    assert other[0] != other[2]

def content_of(w): # -> hash of everything a world shows, features left out (their last digits depend on the processor)
    parts = (w.data.train, w.data.valid, w.data.test, w.uniform_test, w.ood_test, w.env, w.accident)
    return hashlib.sha256(b''.join(x.numpy().tobytes() for x in parts)).hexdigest()[:16]

# Made before the shop could know its users: a world without `personalised` is still the same world, click for click.
OLD = [(toy, {}, '9ea736c62f2a0131'), (toy, dict(seed=3, confounding=2), 'cef9b27756e9150b'), (smoke, {}, '2bc7c27e49601871'), (smoke, dict(seed=2, env_shift=4), '40d9f9445fa45469')]

@pytest.mark.parametrize('make,settings,known', OLD)
def test_worlds_without_a_recommender_are_the_old_ones(make, settings, known):
    assert content_of(make(**settings)) == known
    assert content_of(make(**settings, personalised=.2)) != known

def test_a_personalised_world_is_the_same_in_every_process():
    code = 'from causalmmr.causal.scm import toy; w = toy(1, personalised=1); print(w.data.fingerprint, w.uniform_test.sum().item())'
    w = toy(1, personalised=1)
    assert python(code, PYTHONHASHSEED='7', OMP_NUM_THREADS='2') == [w.data.fingerprint, str(w.uniform_test.sum().item())]

def test_everybody_is_shown_the_same_under_uniform_exposure():
    a,b = (toy(personalised=k).do(exposure='uniform') for k in (0, 2))
    assert torch.equal(a.observed.pairs, b.observed.pairs) and torch.equal(a.flip('gender').propensity([3]), b.propensity([3]))

def test_the_share_shown_is_the_propensity_of_the_pair():
    w = toy(personalised=1.5, shown=20, clicks=4); u = torch.arange(200)
    seen = torch.zeros(200, 120)
    for k in range(200): seen += torch.zeros(200, 120).scatter_(1, shown(w, u, 'share', k)[0], 1.)/200
    p = w.propensity(u)
    assert ((seen-p).abs() < 5.5*(p*(1-p)/200).sqrt()+.01).all()                # 24,000 pairs, each within its error
    assert ((seen-p.mean(0)).abs() > 5.5*(p*(1-p)/200).sqrt()+.01).float().mean() > .3  # one propensity per item is not enough

def test_a_generator_is_the_only_source():
    torch.manual_seed(5); before = torch.random.get_rng_state()
    g = lambda: torch.Generator().manual_seed(11)
    a,b = simulate(g(), n_users=50, n_items=40), simulate(g(), n_users=50, n_items=40)
    assert a.data.fingerprint == b.data.fingerprint and a.name == 'sim-50x40'
    assert torch.equal(before, torch.random.get_rng_state())              # the global seed is neither read nor moved
    gen = g(); assert simulate(gen, n_users=50).seed != simulate(gen, n_users=50).seed

@pytest.mark.parametrize('settings', [
    dict(n_users=1), dict(n_items=2), dict(n_envs=1), dict(n_envs=2), dict(n_styles=(1, 1)), dict(core=0), dict(core=60), dict(n_spurious=0), dict(shared=1, loyalty=1), dict(personalised=1), dict(personalised=30, n_envs=1),
    dict(content=0, shared=0, confounding=0, exposure=0, accidents=0, sensitive=0, attributes=0, env_shift=0, spread=0, feat_noise=0, loyalty=0),
    dict(personalised=1, content=0, confounding=0, attributes=0)])
def test_edges(settings):
    w = toy(**settings)
    assert all(x.isfinite().all() for x in w.data.feats.values())
    assert w.preference([0]).isfinite().all() and w.propensity([0]).isfinite().all() and w.interventional([0]).isfinite().all()
    assert w.data.train.shape[1] > 0 and len(w.env) == len(w.accident) == w.data.train.shape[1]

def test_all_off_is_a_coin():
    off = dict(content=0, confounding=0, attributes=0, exposure=0, env_shift=0)
    p = toy(**off).preference(range(200))
    assert p.max()-p.min() < 1e-6 and abs(p.mean().item()-10/60) < 1e-3

@pytest.mark.parametrize('bad', [
    dict(n_users=0), dict(n_users=-3), dict(n_users='many'), dict(n_users=2.5), dict(n_items=1), dict(shown=0), dict(shown=10**6), dict(clicks=0), dict(clicks=60), dict(core=61),
    dict(accidents=-.1), dict(accidents=1), dict(shared=1.1), dict(loyalty=2), dict(content=-1), dict(confounding=math.inf), dict(exposure=None), dict(personalised=-1), dict(env_shift=math.nan),
    dict(n_envs=0), dict(n_styles=(0, 3)), dict(n_styles=3), dict(widths=(32, 24)), dict(widths=(12, 24, 16)), dict(n_spurious=32), dict(sensitive=True), dict(colour=1)])
def test_bad_settings_take_one_sentence(bad):
    with pytest.raises(BadInput) as e: toy(**bad)
    assert next(iter(bad)) in str(e.value) and '\n' not in str(e.value)

@pytest.mark.parametrize('bad', [
    dict(weather=1), dict(gender=2), dict(gender=-1), dict(gender='f'), dict(gender=.5), dict(age=[1, 2]), dict(style=torch.zeros(5)), dict(env=3), dict(env=-1), dict(env='home'), dict(env=True),
    dict(exposure='odd'), dict(exposure=math.nan), dict(price=0), dict(brand=10**6), dict(accidents=2), dict(season=-1), dict(feats=1), dict(spurious=0)])
def test_bad_interventions_take_one_sentence(bad):
    with pytest.raises(BadInput) as e: toy().do(**bad)
    assert str(next(iter(bad))) in str(e.value) and '\n' not in str(e.value)

def test_interventions_compose_and_commute():
    w = toy()
    a,b = w.do(gender=1).do(exposure='uniform'), w.do(exposure='uniform').do(gender=1)
    assert all(torch.equal(a[k], b[k]) for k in ('gender', 'taste', 'exposure')) and torch.equal(a.observed.pairs, b.observed.pairs)
    assert torch.equal(w.flip('gender').flip('gender').observed.pairs, w.observed.pairs)            # twice is not at all
    assert torch.equal(w.do(gender=w['gender']).observed.pairs, w.observed.pairs)                   # setting the factual value changes nothing

@pytest.mark.parametrize('name', ['gender', 'age', 'occupation', 'style', 'stratum', 'price', 'brand', 'category', 'hype', 'look', 'exposure', 'accidents', 'season'])
def test_only_descendants_change(name):
    w = toy()
    values = dict(stratum=2, gender=1, age=3, occupation=9, brand=1, category=1, price=9.5, accidents=.01)
    v = {'season': dict(env=1)}.get(name, {name: values.get(name, .3)})
    twin = w.do(**v)
    for k in set(w.v) - descendants(name):
        a,b = w[k],twin[k]
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else all(torch.equal(a[m], b[m]) for m in a), k
    assert torch.equal(w.preference([0, 7]), twin.preference([0, 7])) == ('preference' not in descendants(name))

def test_more_users_than_a_block():
    w = simulate(n_users=2500, n_items=200, shown=40, clicks=8)
    u = w.observed.pairs[0]
    assert (u.diff() >= 0).all() and torch.bincount(u, minlength=2500).min() >= 5
    n = torch.bincount(u, minlength=2500).float()                        # blocks share a mechanism, not their noise
    assert not torch.equal(n[:400], n[1024:1424]) and abs(n[:1024].mean()-n[1024:2048].mean()) < .5

def test_large_worlds_take_minutes_not_memory():
    code = ('import resource, time; from causalmmr.causal.scm import simulate; m = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; t = time.process_time()\n'
            'w = simulate(n_users=50_000, n_items=20_000, shown=60, clicks=12); n = w.observed.pairs.shape[1]\n'
            'print(n, time.process_time()-t, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss-m)/2**10)')
    n,seconds,mib = map(float, python(code, OMP_NUM_THREADS='1'))
    assert n > 500_000 and n/seconds > 10e6/600                          # 10 million in ten minutes of one busy core at the very least
    assert mib < 800                                                     # dense scores alone would take 3,800

def test_features_know_items_that_clicks_do_not():
    w = smoke(); d = w.data
    count = torch.bincount(d.train[1], minlength=d.n_items)
    cold = (count <= count.float().quantile(.25)).nonzero()[:,0]
    x = torch.cat([(f-f.mean(0))/f.std(0) for f in d.feats.values()], 1)
    R = torch.zeros(d.n_users, d.n_items).index_put((d.train[0], d.train[1]), torch.ones(())) - count/d.n_users
    R[:,cold] = 0                                                        # the cold items' own clicks are not used
    score = (R@x@torch.linalg.inv(x.T@x/len(x)+torch.eye(x.shape[1]))@x.T)[:,cold]
    p = w.preference(torch.arange(d.n_users))[:,cold]
    corr = lambda a: torch.corrcoef(torch.stack([(a-a.mean(1, keepdim=True)).flatten(), (p-p.mean(1, keepdim=True)).flatten()]))[0,1]
    ids = count[cold].float().expand_as(p)
    assert corr(score) > .25 > .15 > corr(ids)

def test_a_model_learns_from_smoke():
    models,train = pytest.importorskip('causalmmr.models.classic'), pytest.importorskip('causalmmr.train')
    d = smoke().data
    model = models.LightGCN(d, torch.Generator().manual_seed(0))
    train.fit(model, d, epochs=30, batch=2048, lr=5e-3, patience=4, eval_every=5, progress=False)
    learned = train.evaluate(model, d, 'test', ks=(20,)).per_user['recall@20'].mean()
    pop = torch.bincount(d.train[1], minlength=d.n_items).float().repeat(d.n_users, 1)
    pop[d.train[0], d.train[1]] = -math.inf
    hit = torch.zeros(d.n_users, d.n_items).index_put((d.test[0], d.test[1]), torch.ones(()))
    n = hit.sum(1)
    popular = (hit.gather(1, pop.topk(20).indices).sum(1)/n)[n > 0].mean()
    assert learned > 1.3*popular, (float(learned), float(popular))

def test_scalar_worlds_are_twins_under_do():
    for f in (confounded, mediated):
        a,b = f(source(0), 1000), f(source(0), 1000, do=1)
        assert torch.equal(a.z, b.z) and b.t.all() and torch.equal(a.y[a.t], b.y[a.t])  # whoever was treated anyway is unchanged
        for bad in (dict(confounding=1.1), dict(effect=-.1), dict(effect=.9)):
            with pytest.raises(BadInput): f(source(0), 10, **bad)

def test_settings_are_a_value():
    with pytest.raises(AttributeError): Shop().n_users = 3
