"The dual channel at its edges: sizes, devices and types, seeds across processes, cost at the size of a real catalogue, and every schedule in the sampler."
import os, subprocess, sys
import pytest, torch
from causalmmr.causal.diffusion import KINDS, Denoiser, DualChannel, Schedule, betas, normal, own_weight
from causalmmr.causal.scm import smoke
from causalmmr.data import BadInput

def rng(seed): return torch.Generator().manual_seed(seed)
def made(n, d, ms, seed=0): g = rng(seed); return {m: torch.randn(n, d, generator=g) for m in ms}

def python(code, **env): # run in a process of its own
    r = subprocess.run([sys.executable, '-c', code], env=os.environ | env, capture_output=True, text=True, timeout=300)
    assert r.returncode == 0, r.stderr
    return r.stdout.split()

@pytest.mark.parametrize('n', [1, 2, 3, 50])
@pytest.mark.parametrize('ms', [('v', 't'), ('v', 't', 'a'), ('image.feat', 'values', 'keys', 'pop')])
@pytest.mark.parametrize('others', ['tokens', 'mean'])
def test_any_sizes_and_names(n, ms, others):
    H = made(n, 8, ms)
    for kind in KINDS:
        model = DualChannel(rng(1), ms, d=8, T=5, kind=kind, others=others, start='noise')
        C,loss = model(H, H, rng(2))
        assert list(C) == list(ms) and all(x.shape == (n, 8) and x.isfinite().all() for x in C.values()) and loss.isfinite()
        assert all(x.isfinite().all() for x in model.sample(H, H, rng(3)).values())

@pytest.mark.parametrize('T', [1, 2, 20, 1000])
def test_tables_are_finite_at_any_length(T):
    for kind in KINDS:
        S = Schedule(T, kind)
        assert all(x.shape == (T,) and x.isfinite().all() and (x >= 0).all() and (x <= 1).all() for x in S.buffers()), kind
        assert (S.signal.diff() <= 0).all()                                   # the signal only fades
        assert torch.allclose(S.c1 + S.c2*S.signal, torch.cat([torch.ones(1), S.signal[:-1]]), atol=1e-4), kind # means agree with the forward walk

def test_antithetic_pairs():
    t = Schedule().timesteps(10_000, rng(0))
    assert torch.equal(t[:5000], 19-t[5000:]) and t.min() == 0 and t.max() == 19
    spread = torch.stack([Schedule().timesteps(101, rng(s)).float().mean() for s in range(200)]).std()
    assert spread < .2 < 19/12**.5/101**.5                                    # far below that of independent draws

def test_noise_is_the_callers():
    torch.manual_seed(3); before = torch.random.get_rng_state()
    H = made(20, 8, 'vt'); model = DualChannel(rng(1), d=8)
    a,b = rng(5),rng(5)
    for _ in range(2):                                                        # the generator moves on, and alike
        x,y = model(H, H, a)[0]['v'],model(H, H, b)[0]['v']
        assert torch.equal(x, y)
    assert not torch.equal(model.sample(H, H, a)['v'], model.sample(H, H, a)['v']) and torch.equal(before, torch.random.get_rng_state())
    x = torch.zeros(3, 2, dtype=torch.float64)
    assert normal(rng(0), x).dtype == torch.float64 and torch.equal(normal(rng(0), x), normal(rng(0), x))

def test_same_in_every_process():
    code = ('import torch; from causalmmr.causal.diffusion import DualChannel; g = torch.Generator().manual_seed(0)\n'
            'H = {m: torch.randn(30, 16, generator=g) for m in "vt"}; print(float(DualChannel(g, d=16).sample(H, H, g)["v"].sum()))')
    g = rng(0); H = {m: torch.randn(30, 16, generator=g) for m in 'vt'}
    here = DualChannel(g, d=16).sample(H, H, g)['v'].sum().item()
    assert float(python(code, OMP_NUM_THREADS='2', PYTHONHASHSEED='7')[0]) == pytest.approx(here, abs=1e-3)

def test_where_sampling_starts():
    "With a denoiser that answers zero, what is left of the features is a matter of the start alone."
    H = {m: torch.full((4000, 8), 50.) for m in 'vt'}
    kept = {}
    for start in ('features', 'noise'):
        model = DualChannel(rng(0), d=8, start=start)
        for D in model.denoisers: torch.nn.init.zeros_(D.v)
        S = model.schedule; x = H['v']
        x = S.noised(x, torch.full((4000,), 19), rng(1)) if start == 'features' else normal(rng(1), x)
        kept[start] = S.back(torch.zeros_like(x), x, 19, rng(2)).mean().item()
        assert model.sample(H, H, rng(3))['v'].abs().max() < 1e-6            # and the last step is the denoiser's answer
    assert kept['features'] > 40 and abs(kept['noise']) < .1

def test_learns_to_translate():
    "Started from noise, the other modality is all there is to go by: a shuffled condition must spoil the answer, unless nothing is shared."
    g = rng(0); z = torch.randn(400, 4, generator=g)
    H = {m: z@torch.randn(4, 32, generator=g) for m in 'vt'}
    gain = {}
    for shared in (True, False):
        K = H if shared else H | {'t': H['t'][torch.randperm(400, generator=rng(9))]}
        model,g = DualChannel(rng(1), d=32, kind='exponential', start='noise'),rng(2)
        opt = torch.optim.Adam(model.parameters(), lr=.03)
        for _ in range(60):
            loss = model({m: x[:300] for m,x in K.items()}, {m: x[:300] for m,x in K.items()}, g)[1]
            opt.zero_grad(); loss.backward(); opt.step()
        new = {m: x[300:] for m,x in K.items()}                               # items that it has not seen
        far = new | {'t': new['t'][torch.randperm(100, generator=rng(4))]}
        err = [((model.sample(new, F, rng(5))['v']-new['v'])**2).mean().item() for F in (new, far)]
        gain[shared] = 1-err[0]/err[1]
    assert gain[True] > .3 and abs(gain[False]) < .1, gain

def test_own_weight_limits():
    S = Schedule()
    assert own_weight(S, 1.) == 0 and own_weight(S, 0.) == pytest.approx((S.signal[-1]**2).item(), abs=1e-5)
    assert own_weight(S, .3) > own_weight(S, .8) and own_weight(Schedule(kind='cosine'), .3) < 1e-2

def test_bad_input_takes_one_sentence():
    for f in (lambda: betas(kind='quadratic'), lambda: betas(-1), lambda: betas(lo=.1, hi=.01), lambda: Denoiser(rng(0), 5), lambda: Denoiser(rng(0), 0),
              lambda: DualChannel(rng(0), ('v',)), lambda: DualChannel(rng(0), 'vtv'), lambda: DualChannel(rng(0), others='none'), lambda: DualChannel(rng(0), start='zero')):
        with pytest.raises(BadInput) as e: f()
        assert '\n' not in str(e.value)

def test_nothing_of_the_schedule_is_saved():
    assert set(DualChannel(rng(0), 'vta').state_dict()) == {f'denoisers.{k}.{w}' for k in range(3) for w in 'qkv'}

def test_cost_at_the_size_of_baby():
    "A step over 7,050 items and both channels, forward and backward: linear in items, nothing items x items."
    code = ('import resource, time, torch; from causalmmr.causal.diffusion import DualChannel; g = torch.Generator().manual_seed(0)\n'
            'H = {m: torch.randn(7050, 64, generator=g) for m in "vt"}; model = DualChannel(g); top = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**10\n'
            'model({m: x[:64] for m,x in H.items()}, {m: x[:64] for m,x in H.items()}, g)[1].backward(); m = top(); t = time.process_time()\n'
            'for _ in range(3): model(H, H, g)[1].backward()\n'
            'print((time.process_time()-t)/3, top()-m)')
    seconds,mib = map(float, python(code, OMP_NUM_THREADS='1'))
    assert seconds < 1.5 and mib < 150, (seconds, mib)                        # a 7,050 x 7,050 matrix alone is 190 MiB

def test_other_seeds_of_the_shop_say_the_same():
    "Started from noise, the channel of v holds style where it is shared and nothing of v's own; other seeds than the notebook's."
    def view(w): return {m: ((f-f.mean(0))/f.std(0))@torch.randn(f.shape[1], 64, generator=rng(7))/f.shape[1]**.5 for m,f in w['feats'].items() if m in 'vt'}
    def r2(x, y):
        fit = torch.arange(len(x))%2 == 0; x = x.double()-x[fit].double().mean(0); y = y.double()-y[fit].double().mean(0)
        b = torch.linalg.solve(x[fit].T@x[fit]+.02*len(x)*x[fit].var()*torch.eye(x.shape[1]), x[fit].T@y[fit])
        return 1-((y-x@b)[~fit]**2).sum().item()/(y[~fit]**2).sum().item()
    for seed in (1, 2):
        w = smoke(seed, attributes=0, sensitive=0); H = view(w); z = torch.cat([w.style, torch.ones(600, 1)], 1)
        own = w['content'][:,:4] - z@torch.linalg.lstsq(z, w['content'][:,:4]).solution
        model,g = DualChannel(rng(0), kind='exponential', start='noise'),rng(1)
        opt = torch.optim.Adam(model.parameters(), lr=.03)
        for _ in range(40):
            loss = model(H, H, g)[1]
            opt.zero_grad(); loss.backward(); opt.step()
        C = model.sample(H, H, rng(2))['v']
        assert r2(C, w.style) > .15 and r2(C, own) < .05 < .3 < r2(H['v'], own), (seed, r2(C, w.style), r2(C, own))
