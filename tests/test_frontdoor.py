"Front-door estimators against independent libraries, brute force, and worlds in which an assumption is broken."
import itertools, math
import pandas as pd, pytest, torch
from causalmmr.causal.backdoor import hard, impressions, naive
from causalmmr.causal.frontdoor import (additive, effect_by_group, concrete, fit_net, frontdoor, gate_law, graph_sampled, graph_sum, graphs, neural_frontdoor, over_bank)
from causalmmr.causal.scm import mediated, smoke, source, toss
from causalmmr.data import BadInput

DOWHY = .2330804308743543 # dowhy 0.14, frontdoor.two_stage_regression, on mediated(source(0, 'dowhy'), 4000); see test_backdoor.py

def test_agrees_with_what_dowhy_said():
    w = mediated(source(0, 'dowhy'), 4000)
    effect,se = frontdoor(w.t, w.y, w.m).effect()
    assert abs(effect-DOWHY) < se/20 and abs(naive(w.t, w.y).effect()[0]-DOWHY) > 10*se

def test_agrees_with_dowhy_now():
    dowhy = pytest.importorskip('dowhy', reason='dowhy is not installed: its recorded answer is tested instead')
    w = mediated(source(0, 'dowhy'), 4000)
    d = pd.DataFrame(dict(t=w.t.int().numpy(), m=w.m.int().numpy(), y=w.y.double().numpy()))
    model = dowhy.CausalModel(data=d, treatment='t', outcome='y', graph='digraph{U[label="Unobserved Confounders"];U->t;U->y;t->m;m->y}')
    estimand = model.identify_effect(proceed_when_unidentifiable=True)
    assert estimand.estimands['backdoor'] is None and estimand.get_frontdoor_variables() == ['m']
    found = model.estimate_effect(estimand, method_name='frontdoor.two_stage_regression').value
    assert abs(found-DOWHY) < 1e-6

def test_many_values_against_pandas():
    g = source(0, 'pandas')
    t,m,y = torch.randint(4, (4000,), generator=g), torch.randint(3, (4000,), generator=g), torch.randn(4000, generator=g)
    d = pd.DataFrame(dict(t=t.numpy(), m=m.numpy(), y=y.double().numpy()))
    inner = d.groupby(['m', 't']).y.mean().unstack()@d.t.value_counts(normalize=True).sort_index()
    book = pd.crosstab(d.t, d.m, normalize='index')@inner
    assert torch.allclose(frontdoor(t, y, m).mean, torch.tensor(book.to_numpy()), atol=1e-9)
    assert torch.allclose(frontdoor(t, y, m, T=4, K=9).mean, torch.tensor(book.to_numpy()), atol=1e-9)     # values that never occur

@pytest.mark.parametrize('confounding', [0, .5, 1])
@pytest.mark.parametrize('effect', [0, .2, .5])
def test_every_world_within_its_error(confounding, effect):
    z = []
    for seed in range(25):
        w = mediated(source(seed, 'grid'), 3000, effect=effect, confounding=confounding)
        found,se = frontdoor(w.t, w.y, w.m).effect(); z.append((found-.6*effect)/se)
    z = torch.tensor(z)
    assert abs(z.mean()) < 4/25**.5 and .5 < z.std() < 1.6

@pytest.mark.parametrize('call', [
    lambda w: frontdoor(w.t, w.y, w.t), lambda w: frontdoor(w.t, w.y, w.m[1:]), lambda w: frontdoor(w.t, w.y*math.nan, w.m), lambda w: frontdoor(w.t, w.y, w.m.long()-1),
    lambda w: graphs(0), lambda w: graphs(30), lambda w: over_bank(torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor([.5, .6])),
    lambda w: over_bank(torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor([-.5, 1.5]))])
def test_bad_input_takes_one_sentence(call):
    with pytest.raises(BadInput) as e: call(mediated(source(0, 'bad'), 500))
    assert '\n' not in str(e.value)

def test_explicit_sum_against_loops():
    g = source(0, 'loops'); E = 3
    G,keep,add = torch.rand(4, E, generator=g) < .5, torch.rand(E, generator=g), torch.rand(E, generator=g)
    bank,prior = torch.rand(5, E, generator=g) < .5, torch.rand(5, generator=g).softmax(0)
    a,h = torch.randn(2, E, generator=g, dtype=torch.float64)
    f = lambda m,b: torch.sigmoid((m@a)[:,None]+(b@h)[None]+(m@a)[:,None]*(b@h)[None])
    ours = graph_sum(f, gate_law(G, keep, add), bank, prior)
    for row,graph in zip(ours, G.tolist()):
        total = 0.
        for m in itertools.product((0, 1), repeat=E):
            p = math.prod((k if on else x) if e else 1-(k if on else x) for e,on,k,x in zip(m, graph, keep.tolist(), add.tolist()))
            q = torch.tensor(m, dtype=torch.float64)
            total += p*sum(w*torch.sigmoid(q@a+b.double()@h+(q@a)*(b.double()@h)).item() for w,b in zip(prior.tolist(), bank))
        assert math.isclose(row.item(), total, rel_tol=1e-6)
    drawn = graph_sampled(f, torch.where(G, keep, add), bank, prior.double(), g, 20_000)
    assert (drawn-ours).abs().max() < .02

def test_gates_take_their_own_generator_and_pass_gradients():
    torch.manual_seed(3); before = torch.random.get_rng_state()
    s = torch.zeros(5, requires_grad=True)
    a,b = concrete(s, source(0, 'a')), concrete(s, source(0, 'a'))
    assert torch.equal(a, b) and not torch.equal(a, concrete(s, source(1, 'a'))) and ((a > 0) & (a < 1)).all()
    a.sum().backward(); assert s.grad.isfinite().all() and (s.grad > 0).all()
    w = mediated(source(0, 'n'), 400); x = w.t.float()[:,None]
    one = lambda: neural_frontdoor(x, w.y.float(), w.m.float()[:,None], torch.tensor([[0.], [1.]]), source(0, 'net'), steps=20)
    assert torch.equal(one(), one())
    assert torch.equal(before, torch.random.get_rng_state())
    assert concrete(torch.tensor([80., -80.]), source(0, 'x')).isfinite().all()

def test_networks_agree_with_counting():
    "On a binary mediator the neural form must find what the tables find."
    w = mediated(source(0, 'both'), 4000)
    at = neural_frontdoor(w.t.float()[:,None], w.y.float(), w.m.float()[:,None], torch.tensor([[0.], [1.]]), source(0, 'net'), width=8, steps=200)
    effect,se = frontdoor(w.t, w.y, w.m).effect()
    assert abs((at[1]-at[0]).item()-effect) < 2*se < abs(naive(w.t, w.y).effect()[0]-effect)

def test_a_network_learns_a_curve():
    x = torch.linspace(-3, 3, 300)[:,None]
    net = fit_net(x, x.sin(), source(0, 'curve'))
    rms = lambda f: (f(x)-x.sin()).pow(2).mean().sqrt()
    assert rms(net) < .05 < rms(fit_net(x, x.sin(), source(0, 'curve'), steps=50)) < x.sin().std()
    assert not any(p.requires_grad for p in net.parameters())

def test_additive_is_least_squares_without_products():
    g = source(0, 'add'); m,G = torch.rand(500, 3, generator=g) < .5, torch.rand(500, 3, generator=g) < .5
    y = m.double()@torch.tensor([1., 2, 3], dtype=torch.float64)+G.double()@torch.tensor([4., 5, 6], dtype=torch.float64)+7
    f = additive(m, G, y)(graphs(3).double(), graphs(3).double())
    assert torch.allclose(f[7,0], torch.tensor(13., dtype=torch.float64)) and torch.allclose(f[0,7], torch.tensor(22., dtype=torch.float64))

def test_over_bank_passes_gradients_and_keeps_shape():
    x_m,x_g = torch.randn(3, 7, generator=source(0, 'm')).requires_grad_(), torch.randn(4, 7, generator=source(0, 'g')).requires_grad_()
    p = over_bank(x_m, x_g, torch.full((4,), .25)); p.sum().backward()
    assert p.shape == (3, 7) and x_m.grad.abs().sum() > 0 and x_g.grad.abs().sum() > 0

@pytest.mark.parametrize('seed', [1, 2, 3])
def test_the_shop_that_pushes_fashion(seed):
    "Four estimates of what a push does, over worlds; the truth comes from do()."
    s = smoke(seed, n_users=500, confounding=4, accidents=0, spread=0); u = torch.arange(500)
    x = s.style@s['style_taste'].mean(0)
    push = .7*(x-x.mean())/x.std() + .51**.5*s['hype'] > 0
    w,true = s.do(hype=torch.where(push, 1., -1.)), []
    for k in range(8):
        q = push[torch.randperm(600, generator=source(seed, 'chance', k))]
        v = s.do(hype=torch.where(q, 1., -1.)); click = v.propensity(u)*v.preference(u)
        true.append((click[:,q].mean()-click[:,~q].mean()).item())
    true = sum(true)/8
    seen,click = (x.flatten() for x in impressions(w)); t,z = push.repeat(500), w.stratum.repeat(500)
    err = lambda e: abs(e.effect()[0]-true)
    worst = err(naive(t, click))
    assert worst > .1*true and err(frontdoor(t, click, seen)) < worst/2
    if (est := hard(t, click, z)).support == 1: assert err(est) < worst/2
    assert err(frontdoor(t, click, toss(torch.full((len(t),), .1), source(seed, 'coin')))) > .8*true
    rows = effect_by_group(frontdoor, (torch.arange(500) % 2).repeat_interleave(600), t, click, seen)
    assert rows.shape == (2, 2) and (rows[:,1] > rows[:,0]).all()
