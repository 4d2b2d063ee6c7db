"""CaMRec at the sizes of the paper's data sets: parameters to the unit, memory and loaders; and what a run must survive."""
import json, os, subprocess, sys
from dataclasses import replace
import numpy as np, pytest, torch
from causalmmr.causal.scm import toy
from causalmmr.data import BadInput, MMData
from causalmmr.formats import load
from causalmmr.models.camrec import CaMRec, edge_gates, gate_auc
from causalmmr.train import Pairs, adam, epoch, evaluate, fit, rng

SIZES = dict(baby=(19_445, 7_050, 2_833_668, 2_856_708), sports=(35_598, 18_357, 4_901_252, 4_924_292), clothing=(39_387, 23_033, 5_386_244, 5_409_284))

def empty_features(I, **widths): return {m: torch.zeros(1, 1).expand(I, d) for m,d in widths.items()}   # full width, no memory

@pytest.mark.parametrize('name', SIZES)
@pytest.mark.parametrize('n_codes', [0, 50])
def test_parameters_are_those_of_the_released_model(name, n_codes):
    U, I, without, with_codes = SIZES[name]
    few = torch.tensor([[0, 1], [1, 0]])
    m = CaMRec(MMData(name, U, I, few, few, few, empty_features(I, v=4096, t=384)), rng(0), knn=(0,), n_codes=n_codes)
    assert sum(p.numel() for p in m.parameters()) == (with_codes if n_codes else without)
    assert not any(p.shape == (I, 64) for p in m.parameters())                     # no item ids anywhere

def two(data): return replace(data, feats={m: data.feats[m] for m in 'vt'})

@pytest.mark.parametrize('hp', [dict(), dict(released=True), dict(theory=True, n_coarse=4, n_fine=6, n_bank=16)], ids=['corrected', 'released', 'theory'])
def test_an_interrupted_run_ends_with_the_same_bits(hp, tmp_path):
    data = two(toy().data)
    def go(epochs, ckpt=None):
        m = CaMRec(data, rng(3), d=8, knn=(5,), **hp)
        fit(m, data, epochs=epochs, batch=512, lr=.01, ckpt=ckpt, ckpt_seconds=0, progress=False)
        return m
    whole = go(4)
    for e in (1, 3, 4): broken = go(e, tmp_path/'c.safetensors')
    assert all(torch.equal(a, b) for a,b in zip(whole.state_dict().values(), broken.state_dict().values()))
    ranks = [evaluate(m, data, ks=(10,)).top for m in (whole, whole, broken)]
    assert torch.equal(ranks[0], ranks[1]) and torch.equal(ranks[0], ranks[2])     # looking twice, and after a resume

def test_looking_does_not_disturb_training():
    data = two(toy().data)
    def go(look):
        m = CaMRec(data, rng(1), d=8, knn=(5,)); o = adam(m, .01)
        for _ in range(2):
            for b in epoch(Pairs(data), 512, m.g): m.train(); m.step(o, *b)
            if look: evaluate(m, data, 'valid', ks=(10,))
        return m.views[0].prefer
    assert torch.equal(go(False), go(True)) and not torch.equal(go(True), CaMRec(data, rng(1), d=8, knn=(5,)).views[0].prefer)

@pytest.mark.parametrize('hp', [dict(), dict(released=True), dict(theory=True), dict(max_edges=100)], ids=['corrected', 'released', 'theory', 'thinned'])
def test_loops_and_chains_of_operations_make_the_same_step(hp, monkeypatch):
    "Loops are compiled where numba is, and Python where it is not: the same numbers as without them."
    from causalmmr import graph
    from causalmmr.causal import diffusion
    from causalmmr.models import camrec
    data = two(toy().data); few = replace(data, train=data.train[:,::4])
    batch = next(epoch(Pairs(few), 200, rng(5)))
    def step(loops):
        for module in (graph, diffusion, camrec): monkeypatch.setattr(module, 'looped_over', lambda x: loops)
        m = CaMRec(few, rng(1), d=8, knn=(5,), **hp)
        l = m.loss(*batch)
        return l.item(), dict(zip(dict(m.named_parameters()), torch.autograd.grad(l, list(m.parameters()), allow_unused=True, materialize_grads=True)))
    (a, slopes), (b, others) = step(True), step(False)
    assert a == pytest.approx(b, rel=1e-5)
    for k in slopes: assert (slopes[k]-others[k]).abs().max() <= 1e-4*slopes[k].abs().max()+1e-7, k

def test_any_two_or_more_modalities():
    data = toy().data
    for feats in (dict(a=data.feats['a'], v=data.feats['v']), dict(data.feats), dict(data.feats, clip=data.feats['t'].flip(1))):
        d = replace(data, feats=feats)
        m = CaMRec(d, rng(0), d=8, knn=(5,)); fit(m, d, epochs=1, batch=1024, progress=False)
        assert len(m.mods) == len(feats) and m.eval()()[0].shape == (data.n_users, 8*len(feats))
    with pytest.raises(BadInput, match='two or more'): CaMRec(replace(data, feats={}), rng(0))

def test_gates_can_find_accidents():
    "Not that a trained model does (it hardly does: see the table camrec_interpretability), but that the reading would show it."
    w = toy(); data = two(w.data)
    m = CaMRec(data, rng(0), d=8, knn=(5,))
    bad = {tuple(p) for p in data.train.T[w.accident].tolist()}
    with torch.no_grad():
        class Knows(torch.nn.Module):
            def forward(self, A, x):
                pairs = zip(torch.minimum(A.row, A.col).tolist(), (torch.maximum(A.row, A.col)-data.n_users).tolist())
                return torch.tensor([-3. if p in bad else 3. for p in pairs])
        for v in m.views: v.scorers = torch.nn.ModuleList([Knows(), Knows()])
        assert gate_auc(edge_gates(m, data.train), w.accident) == 1

def test_the_theory_mode_adjusts_in_a_shop_of_its_own():
    "Strata that nobody may read off an item's score, and vectors for whoever wants vectors."
    data = two(toy().data); m = CaMRec(data, rng(0), d=8, knn=(5,), theory=True, n_draws=2, n_bank=4)
    fit(m, data, epochs=3, batch=1024, lr=.02, progress=False)
    with torch.no_grad():
        for p in m.outcome.V: p.normal_(generator=rng(1))                           # users who mind strata very much
    users,at = torch.arange(data.n_users),m.adjust.strata.at
    p = m.eval().preference(users)
    assert torch.equal(p, m.scores(users)) and torch.allclose(p[7:9], m.train().eval().preference(torch.tensor([7, 8])), atol=1e-6)
    assert torch.allclose(p.mean(1), p.new_tensor(torch.bincount(data.train[0])/data.n_items), atol=.2)
    style = at == at.mode().values
    m.train(); at.copy_(at.flip(0))
    assert torch.allclose(m.eval().preference(users), p, atol=1e-6) and not torch.equal(style, style.flip(0))
    x_u,x_i = m.final()
    assert x_u.shape == (data.n_users, 16) and x_i.shape == (data.n_items, 16)
    m.train()
    with torch.no_grad(): at.zero_()                                                # one stratum for all: the sum has one term
    assert (m.eval().preference(users)-p).abs().max() > .01 and len(m.read.p_c) == 1

def test_thinned_training_runs_in_every_mode():
    data = two(toy().data)
    for hp in (dict(), dict(theory=True), dict(released=True)):
        m = CaMRec(data, rng(0), d=8, knn=(5,), max_edges=300, **hp); h = fit(m, data, epochs=6, batch=1024, lr=.02, progress=False)
        assert h.loss.iloc[-1] < h.loss.iloc[0]

RUN = ['train', 'causalmmr.models.camrec:CaMRec', 'toy', '-p', 'd=8', '-p', 'knn=(5,)', '-p', 'epochs=2', '-p', 'batch=1024', '--json']

def test_from_the_shell(here, tmp_path):
    r = here(*RUN, '--out', tmp_path)
    assert r.returncode == 0, r.stderr
    row = json.loads(r.stdout)
    assert row['model'] == 'CaMRec' and json.loads(row['settings'])['knn'] == [5]
    top = here('recommend', row['run'], '--user', '3', '-k', '5', '--out', tmp_path)
    assert top.returncode == 0, top.stderr
    wrong = here(*RUN, '--out', tmp_path, '-p', 'released=True', '-p', 'theory=True')
    assert wrong.returncode == 2 and 'exclude each other' in wrong.stderr and 'Traceback' not in wrong.stderr

BABY = '''
import resource, sys, time, torch
from causalmmr.formats import load
from causalmmr.models.camrec import CaMRec
from causalmmr.models.classic import LightGCN
from causalmmr.train import Pairs, adam, epoch, rng
torch.set_num_threads(1)
data = load(sys.argv[1]); steps = int(sys.argv[2]); pairs = Pairs(data)
for M,hp in ((LightGCN, dict(L=2)), (CaMRec, dict())):
    m = M(data, rng(0), **hp); o = adam(m, 1e-3); times = []
    for k,b in zip(range(steps), epoch(pairs, 2048, m.g)):
        t = time.process_time(); m.step(o, *b); times.append(time.process_time()-t)
    print(M.__name__, sorted(times)[len(times)//2]*-(-data.train.shape[1]//2048))
print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**20)
'''

def test_baby_size_with_made_features(real_data, tmp_path):
    "The loader path of MMRec's image_feat.npy and text_feat.npy at full size, with made features: for memory and time only."
    base = load('baby', data_dir=real_data); folder = tmp_path/'baby'; folder.mkdir()
    label = [(p, k) for k,s in enumerate(('train', 'valid', 'test')) for p in getattr(base, s).T.tolist()]
    (folder/'baby.inter').write_text('userID\titemID\tx_label\n' + ''.join(f'{u}\t{i}\t{k}\n' for (u,i),k in label))
    noise = np.random.default_rng(0)
    for name,d in (('image', 4096), ('text', 384)): np.save(folder/f'{name}_feat.npy', noise.standard_normal((base.n_items, d), dtype=np.float32))
    (folder/'about.json').write_text('{"features": {"v": "image_feat", "t": "text_feat"}}')
    data = load(folder)
    assert data.train.shape[1] == 118_551 and data.feats['v'].shape == (7_050, 4_096) and data.feats['t'].shape == (7_050, 384)
    out = subprocess.run([sys.executable, '-c', BABY, str(folder), os.environ.get('CAUSALMMR_STEPS', '3')], capture_output=True, text=True, check=True).stdout
    print(out)
    assert float(out.split('peak')[1]) < 2.5
