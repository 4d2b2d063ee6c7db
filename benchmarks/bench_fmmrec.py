"""One stage-2 epoch of FMMRec at MovieLens-1M size (392 batches, ten classifier steps each), beside a twin written as released.

    python benchmarks/bench_fmmrec.py                 two threads, 20 steps of ours, 2 of the twin
    python benchmarks/bench_fmmrec.py --threads 1 --steps 40 --twin-steps 3

The twin does per batch what the released trainer does: it adds six dense user graphs and multiplies with them in each of two
forward passes, gathers dense rows of the interaction matrix for the implicit view, and steps sixty small classifiers one by one.
Both run on the same pairs and vectors in one process, alternating, so that a noisy machine is noisy for both; medians are
multiplied by the number of batches. Without real data in CAUSALMMR_DATA a random set of the same size is used.
"""
import argparse, json, os, time

U, I, E, D, K = 6040, 3706, 802_553, 64, (2, 7, 21)

def data_of():
    import numpy as np, pandas as pd, torch
    from causalmmr.data import BadInput, MMData
    from causalmmr.formats import load
    try: return load('ml1m'), 'real'
    except BadInput: pass
    g = torch.Generator().manual_seed(0)
    key = (torch.rand(2*E, generator=g)**2*U).long()*I + (torch.rand(2*E, generator=g)**2*I).long()
    key = torch.cat([torch.arange(U)*I, key]).unique(); key = key[torch.randperm(len(key), generator=g)][:E]
    r = np.random.default_rng(0); users = pd.DataFrame({a: r.integers(0, n, U) for a,n in zip(('gender', 'age', 'occupation'), K)})
    pairs = torch.stack([key//I, key % I])
    return MMData('ml1m', U, I, pairs, pairs[:,:9], pairs[:,:9], {m: torch.randn(I, d, generator=g) for m,d in dict(a=128, t=384, v=64).items()}, users=users), 'random, same size'

class Twin:
    "Stage 2 as the released code computes it, with stock torch."
    def __init__(self, data, base, y):
        import torch, torch.nn as nn, torch.nn.functional as F
        self.P, self.Q, self.y = base.user, base.item, y
        self.R = torch.zeros(data.n_users, data.n_items).index_put_(tuple(data.train), torch.tensor(1.)); self.R /= self.R.sum(1, keepdim=True).clamp(min=1)
        def graph(x):
            n = F.normalize(x, dim=1); s = n@n.T; v, j = s.topk(10, 1); s = torch.zeros_like(s).scatter_(1, j, v); d = s.sum(1).pow(-.5)
            return d[:,None]*s*d
        self.graphs = {z: [(a, graph(self.R@getattr(base.parts[m], z))) for m,a in dict(t=.2, v=.6, a=.2).items()] for z in ('biased', 'filtered')}
        self.e = nn.Embedding(2, D)
        self.G = nn.ModuleList(nn.Sequential(nn.Linear(2*D, D), nn.LeakyReLU(.2, inplace=True), nn.Linear(D, D)) for _ in K)
        head = lambda c: nn.Sequential(nn.Linear(D, D//2), nn.LeakyReLU(.2), nn.Dropout(.2), nn.Linear(D//2, 1 if c == 2 else c))
        self.heads = [[(c, h := head(c), torch.optim.Adam(h.parameters(), 1e-3)) for c in K] for _ in range(2)]
        self.opt = torch.optim.Adam([*self.e.parameters(), *self.G.parameters()], 1e-3)

    def forward(self):
        import torch
        h = {z: sum(a*A for a,A in g)@self.P for z,g in self.graphs.items()}
        p = self.P + .1*(h['filtered']-h['biased'])
        x_u, x_i = (torch.cat([self.e(torch.full((len(x),), w)), x], 1) for x,w in ((p, 1), (self.Q, 0)))
        return sum(f(x_u) for f in self.G)/len(K), sum(f(x_i) for f in self.G)/len(K)

    def ce(self, c, net, x, y):
        import torch.nn.functional as F
        return F.binary_cross_entropy(net(x).sigmoid().squeeze(), y.float()) if c == 2 else F.nll_loss(F.log_softmax(net(x), 1), y)

    def step(self, u, i, j):
        import torch.nn.functional as F
        self.opt.zero_grad()
        z_u, z_i = self.forward()
        l = -F.logsigmoid((z_u[u]*z_i[i]).sum(1)-(z_u[u]*z_i[j]).sum(1)).mean()
        z_u, z_i = self.forward()
        seen = z_u[u], self.R[u]@z_i
        for x,heads,w in zip(seen, self.heads, (.1, .05)):
            for (c,net,_),y in zip(heads, self.y): l = l - w*self.ce(c, net, x, y[u])
        l.backward(); self.opt.step()
        for x,heads in zip(seen, self.heads):
            for (c,net,opt),y in zip(heads, self.y):
                for _ in range(10):
                    opt.zero_grad(); self.ce(c, net, x.detach(), y[u]).backward(); opt.step()

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--threads', type=int, default=2); p.add_argument('--steps', type=int, default=20); p.add_argument('--twin-steps', type=int, default=2)
    a = p.parse_args()
    os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE'); os.environ['OMP_NUM_THREADS'] = str(a.threads)
    import torch
    from causalmmr.disentangle import Split
    from causalmmr.fair.filters import Vectors
    from causalmmr.models.fmmrec import FMMRec
    from causalmmr.train import Pairs, adam, epoch, rng
    torch.set_num_threads(a.threads)
    data, kind = data_of(); g = rng(0)
    base = Vectors('random', torch.randn(data.n_users, D, generator=g)*.5, torch.randn(data.n_items, D, generator=g)*.5, {m: Split(x, x.flip(1)) for m,x in data.feats.items()})
    began = time.perf_counter(); m = FMMRec(data, rng(0), base=base); made = time.perf_counter()-began
    twin = Twin(data, base, m.y); m.train()
    opt = adam(m, 1e-3); batches = epoch(Pairs(data), 2048, m.g); n = -(-data.train.shape[1]//2048); times = dict(ours=[], twin=[])
    m.step(opt, *next(batches))
    def clock(who, f, *x): t = time.perf_counter(); f(*x); times[who].append(time.perf_counter()-t)
    for k in range(a.steps):
        b = next(batches); clock('ours', m.step, opt, *b)
        if k < a.twin_steps: clock('twin', twin.step, *b)
    ours, theirs = (sorted(t)[len(t)//2]*n for t in (times['ours'], times['twin'])); began = time.perf_counter(); [None for _ in epoch(Pairs(data), 2048, rng(1))]
    drawn = time.perf_counter()-began
    print(json.dumps(dict(data=kind, threads=a.threads, batches=n, ours_epoch_s=round(ours+drawn, 1), of_it_drawing_s=round(drawn, 1), twin_epoch_s=round(theirs+drawn, 1),
                          ratio=round((ours+drawn)/(theirs+drawn), 4), user_graphs_once_s=round(made, 1), targets='ours_epoch_s <= 30, ratio <= 0.06')))

if __name__ == '__main__': main()
