"""One outer iteration of InvRL (environments, then a mask) on TikTok, beside the released schedule written as released.

    python benchmarks/bench_invrl.py                                  reduced: one front epoch and a tenth of a back epoch of each, extrapolated; minutes
    python benchmarks/bench_invrl.py --exact --share .05              the same labels and the same mask, in double precision, on 5 % of the pairs
    python benchmarks/bench_invrl.py --f-epochs 20 --rounds 10 --b-steps 0 --threads 2      everything in full; hours for the twin

The twin trains fresh front models one after another with stock autograd and optimisers, projects every item in every step although
a batch touches a third of them, gathers batch x 51 x 128 numbers, and takes the gradient of each environment by a pass of its own.
Both see the same pairs, draws and starts. The machine's load counts for both: part by part they alternate, and process time stands
beside the clock. A full iteration is at most ten rounds of twenty epochs, and forty back epochs, as released. Without real data in
CAUSALMMR_DATA a random set of the same size is used.
"""
import argparse, json, os, time

E, D_FREE, NEG, BATCH, LR, SEED = 10, 64, 50, 512, 1e-3, 2233
WD, LAM, ALPHA, SIGMA = (1e-4, 1e-2, 1.), .1, 1., .01

def data_of():
    import torch
    from causalmmr.data import BadInput, MMData
    from causalmmr.formats import load
    try: return load('tiktok'), 'real'
    except BadInput: pass
    U, I, n = 9308, 6710, 59_541
    g = torch.Generator().manual_seed(0); pairs = torch.stack([torch.arange(n) % U, (I*torch.rand(n, generator=g)**2).long()])
    return MMData('tiktok', U, I, pairs, pairs[:,:9], pairs[:,:9], {m: torch.randn(I, 128, generator=g) for m in 'av'}), 'random, same size'

class Twin:
    "The released schedule with stock torch."
    def __init__(self, base, data): self.base, self.data, self.x = base, data, base.x

    def loss(self, u, j, users, items, bias): # a batch's summed loss, as in the release: whole rows gathered
        import torch, torch.nn.functional as F
        y = (users[u][:,None,:]*items[j]).sum(-1) if bias is None else (users[u][:,None,:]*(items+bias)[j]).sum(-1)
        om = 1+self.base.b_u[u][:,None]*self.base.b_i[j]
        bce = lambda y, t: F.binary_cross_entropy_with_logits(y, torch.full_like(y, t), reduction='none')
        return ((om[:,0]*bce(y[:,0], 1.)) + (om[:,1:]*bce(y[:,1:], 0.)).mean(1)).sum()

    def front(self, pairs, labels, mask, epochs): # -> labels
        import torch
        from causalmmr.invariant.environments import draws, new_fronts
        scores = []
        for e in range(E):
            u0, v, w, b = (t[0].clone().requires_grad_() for t in vars(new_fronts(self.x, self.data.n_users, 1, D_FREE, SEED)).values())
            ada, adam = torch.optim.Adagrad([u0, v], LR), torch.optim.Adam([w, b], LR)
            for u, j in draws(pairs[:,labels==e], len(self.x), epochs, BATCH, NEG, SEED):
                l = self.loss(u, j, u0, torch.cat([v, self.x@w.T+b], 1), None)
                l = l + WD[0]*(u0.pow(2).sum()+WD[2]*v.pow(2).sum()) + WD[1]*(w.pow(2).sum()+b.pow(2).sum()) + WD[1]*(w*mask).abs().mean()
                ada.zero_grad(); adam.zero_grad(); l.backward(); ada.step(); adam.step()
            with torch.no_grad(): scores.append((u0[pairs[0]]*torch.cat([v, self.x@w.T+b], 1)[pairs[1]]).sum(1))
        return torch.stack(scores).argmax(0)

    def back(self, pairs, labels, g, steps): # -> mask
        import torch
        from causalmmr.models.painvrl import endless
        feeds = [endless(pairs[:,labels==e], len(self.x), BATCH, NEG, g) for e in labels.unique().tolist()]
        mu = torch.zeros(self.x.shape[1]).to(self.x).requires_grad_()
        w = (.01*torch.randn(D_FREE, self.x.shape[1], generator=g).to(self.x)).requires_grad_()
        opt = torch.optim.Adam([mu, w], LR)
        for _ in range(steps):
            batches = [next(f) for f in feeds]
            z = (mu + SIGMA*torch.randn(len(feeds), len(mu), generator=g).to(mu) + .5).clamp(0, 1)
            losses, grads = [], []
            for (u, j), k in zip(batches, z):
                l = self.loss(u, j, self.base.U, torch.cat([self.base.V, (self.x*k)@w.T], 1), None)
                losses.append(l); grads.append(torch.autograd.grad(l, w, create_graph=True)[0])
            G = torch.stack(grads)
            R = ((G-G.mean(0)).pow(2).sum(0)*(mu+.5)).pow(2).sum()
            total = torch.stack(losses).mean() + ALPHA*R + LAM*mu.pow(2).sum()
            opt.zero_grad(); total.backward(); opt.step()
        return (mu.detach()+.5).clamp(0, 1)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--threads', type=int, default=2); p.add_argument('--f-epochs', type=int, default=1); p.add_argument('--rounds', type=int, default=1)
    p.add_argument('--b-steps', type=int, default=2, help='steps of the back end; 0: forty epochs'); p.add_argument('--share', type=float, default=1., help='of the pairs')
    p.add_argument('--exact', action='store_true', help='double precision; labels must be the same')
    a = p.parse_args()
    os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE'); os.environ['OMP_NUM_THREADS'] = str(a.threads)
    import torch
    from causalmmr.invariant.environments import cluster
    from causalmmr.invariant.search import MaskSearch, back_end
    from causalmmr.models.painvrl import ContentUltraGCN
    from causalmmr.train import rng
    torch.set_num_threads(a.threads)
    data, kind = data_of()
    pairs = data.train[:,torch.randperm(data.train.shape[1], generator=rng(1))[:int(a.share*data.train.shape[1])]]
    base = ContentUltraGCN(data, rng(0), D_FREE, NEG).requires_grad_(False)
    if a.exact: base = base.double()
    twin, mask, labels = Twin(base, data), torch.zeros(base.x.shape[1]).to(base.x), torch.randint(E, pairs.shape[1:], generator=rng(0))
    warm = torch.zeros(1, requires_grad=True); torch.optim.Adam([warm]); cluster(base.x, pairs[:,:99], data.n_users, E, (base.b_u, base.b_i), rng(0), rounds=1, epochs=1)      # torch loads parts of itself on first use: seconds that belong to neither
    took = {}
    def clock(name, f):
        wall, cpu = time.perf_counter(), time.process_time(); out = f()
        t = took.setdefault(name, [0., 0.]); t[0] += time.perf_counter()-wall; t[1] += time.process_time()-cpu
        return out
    how = dict(seed=SEED, epochs=a.f_epochs, batch=BATCH, n_neg=NEG, d=D_FREE, lr=LR, wd=WD, mask=mask)
    ours, theirs, same = labels, labels, []
    for r in range(a.rounds):
        ours = clock('front, ours', lambda: cluster(base.x, pairs, data.n_users, E, (base.b_u, base.b_i), rng(0), labels=ours, rounds=1, **how)[0])
        theirs = clock('front, twin', lambda: twin.front(pairs, theirs, mask, a.f_epochs)); same.append((ours==theirs).double().mean().item())
    steps = -(-int(torch.bincount(ours, minlength=E).max())//BATCH); n = a.b_steps or 40*steps
    # back_end counts whole epochs; here it is given one epoch of n steps: a batch limit on the largest environment
    few = min(n, steps); part = torch.cat([(ours==e).nonzero()[:few*BATCH,0] for e in range(E)]); whole = max(1, n//few)
    args = (pairs[:,part], ours[part])
    released = MaskSearch(epochs=whole, batch=BATCH, lr=LR, lam=LAM, sigma=SIGMA, alpha=ALPHA)       # base has NEG negatives
    m1 = clock('back, ours', lambda: back_end(base, *args, rng(5), released))[0]
    m2 = clock('back, twin', lambda: twin.back(*args, rng(5), whole*few))
    if a.exact: assert min(same) == 1 and (m1-m2).abs().max() < 1e-6, (same, (m1-m2).abs().max().item())
    def full(who, k): return took[f'front, {who}'][k]/(a.f_epochs*a.rounds)*200 + took[f'back, {who}'][k]/(whole*few)*40*steps
    print(json.dumps(dict(data=kind, pairs=pairs.shape[1], threads=a.threads, precision='double' if a.exact else 'single', front_epochs=a.f_epochs*a.rounds, back_steps=whole*few,
        clock_s={k: round(v[0], 2) for k,v in took.items()}, process_s={k: round(v[1], 2) for k,v in took.items()},
        ratio_front=round(took['front, ours'][1]/took['front, twin'][1], 3), ratio_back=round(took['back, ours'][1]/took['back, twin'][1], 3),
        full_iteration_min=dict(ours=round(full('ours', 1)/60, 1), twin=round(full('twin', 1)/60, 1)), ratio_clock=round(full('ours', 0)/full('twin', 0), 3), ratio=round(full('ours', 1)/full('twin', 1), 3),
        same_labels=[round(x, 5) for x in same], largest_difference_of_masks=float(f'{(m1-m2).abs().max().item():.2g}'), target='ratio <= 0.33'), indent=1))

if __name__ == '__main__': main()
