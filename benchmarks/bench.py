"""Speed of one LightGCN epoch and one full-ranking evaluation, beside what the peers write and what the machine could do.

    make bench                                   both data sets, one and two threads
    python benchmarks/bench.py --data baby --threads 1

Three things are measured in one run, on the same pairs, so that a noisy machine is noisy for all of them:
ours, (a) the same step with torch's COO product, Python negatives drawn user by user and per-user metrics, as the peers
write it, and (b) a floor: the rates of this machine's sparse product, copy and matrix product, multiplied by the work.
Each child process runs one (data set, threads) and reports medians; the parent prints ratios.
Without real data in CAUSALMMR_DATA the sets are random graphs of the same size, and the table says so.
"""
import argparse, json, os, random, resource, subprocess, sys, time
from pathlib import Path

SIZES = dict(baby=(19445, 7050, 118551, 20559, 21682), sports=(35598, 18357, 218409, 40029, 37899))
KS, BATCH, L, D = (5, 10, 20, 50), 2048, 2, 64

def pairs_of(name):
    "The real set where it is at hand, else a random graph of the same size."
    import torch
    from causalmmr.data import BadInput, MMData
    from causalmmr.formats import load
    try: return load(name), 'real'
    except BadInput: pass
    U, I, *E = SIZES[name]
    g = torch.Generator().manual_seed(0)
    item = lambda n: (I*torch.rand(n, generator=g)**2).long()                    # popular items have small ids
    key = torch.cat([torch.arange(U)*I + item(U), torch.randint(U, (2*sum(E),), generator=g)*I + item(2*sum(E))]).unique()
    key = key[torch.randperm(len(key), generator=g)][:sum(E)]
    return MMData(name, U, I, *(torch.stack([k//I, k % I]) for k in key.split(E))), 'random, same size'

def clock(f, n):
    "Median and fastest of n timed calls, after one to warm up."
    f(); t = []
    for _ in range(n): s = time.perf_counter(); f(); t.append(time.perf_counter() - s)
    return sorted(t)[n//2], min(t)

class Peer:
    "LightGCN as the peers write it: COO product with stock autograd, stacked layers, default Adam, negatives from Python sets."
    def __init__(self, data):
        import torch
        self.data, self.U, n = data, data.n_users, data.n_users + data.n_items
        e = data.edge_index
        deg = torch.bincount(e[0], minlength=n).float()
        self.A = torch.sparse_coo_tensor(e, (deg[e[0]]*deg[e[1]]).rsqrt(), (n, n)).coalesce()
        g = torch.Generator().manual_seed(0)
        self.x_u, self.x_i = (torch.nn.Parameter(torch.nn.init.xavier_uniform_(torch.empty(k, D), generator=g)) for k in (data.n_users, data.n_items))
        self.opt = torch.optim.Adam([self.x_u, self.x_i], 1e-3)
        self.seen = [set() for _ in range(data.n_users)]
        for u, i in data.train.T.tolist(): self.seen[u].add(i)
        self.items = data.train[1].unique().tolist()

    def forward(self):
        import torch
        x = torch.cat([self.x_u, self.x_i]); xs = [x]
        for _ in range(L): x = torch.sparse.mm(self.A, x); xs.append(x)
        return torch.split(torch.stack(xs, 1).mean(1), [self.U, self.data.n_items])

    def batches(self):
        import torch
        return torch.randperm(self.data.train.shape[1]).split(BATCH)

    def step(self, rows):
        import torch, torch.nn.functional as F
        u, i = self.data.train[:, rows]; j = []
        for v in u.tolist():
            k = random.choice(self.items)
            while k in self.seen[v]: k = random.choice(self.items)
            j.append(k)
        j = torch.tensor(j)
        y_u, y_i = self.forward()
        loss = -F.logsigmoid((y_u[u]*y_i[i]).sum(1) - (y_u[u]*y_i[j]).sum(1)).mean()
        loss = loss + 1e-3*(self.x_u[u].pow(2).sum() + self.x_i[i].pow(2).sum() + self.x_i[j].pow(2).sum())/len(u)
        self.opt.zero_grad(); loss.backward(); self.opt.step()

    def epoch(self):
        for rows in self.batches(): self.step(rows)

    def evaluate(self):
        import numpy as np, torch
        test = [[] for _ in range(self.data.n_users)]
        for u, i in self.data.test.T.tolist(): test[u].append(i)
        users = [u for u in range(self.data.n_users) if test[u]]
        tops = []
        for lo in range(0, len(users), 4096):
            block = users[lo:lo+4096]
            with torch.no_grad(): y_u, y_i = self.forward(); s = y_u[block]@y_i.T
            for r, u in enumerate(block): s[r, list(self.seen[u])] = -1e10
            tops.append(s.topk(max(KS), 1).indices)
        tops = torch.cat(tops).tolist()
        hit = np.array([[i in rel for i in top] for top, rel in zip(tops, ([*map(set, (test[u] for u in users))]))], float)
        out = {k: [] for k in ('recall', 'ndcg', 'precision', 'map')}
        gain = 1/np.log2(np.arange(2, max(KS) + 2))
        for h, u in zip(hit, users):
            n = len(test[u])
            for k in KS:
                c = h[:k].cumsum()
                out['recall'].append(c[-1]/n); out['precision'].append(c[-1]/k)
                out['ndcg'].append((h[:k]*gain[:k]).sum()/gain[:min(n, k)].sum())
                out['map'].append((c/np.arange(1, k + 1)*h[:k]).sum()/min(n, k))
        return {f'{m}@{k}': float(np.mean(v[a::len(KS)])) for m, v in out.items() for a, k in enumerate(KS)}

def floor(model, data):
    "Seconds that an epoch and an evaluation would take if they did nothing but their products, copies and matrix products."
    import torch
    from causalmmr.graph import bag
    A, n = model.A, data.n_users + data.n_items
    x, y = torch.randn(n, D), torch.empty(n, D)
    steps = -(-data.train.shape[1]//BATCH)
    product = clock(lambda: bag(A.start, A.col, A.val, x), 30)[0]
    copy = clock(lambda: y.copy_(x), 30)[0]                                       # one table read, one written
    users = data.test[0].unique(); B = 1024
    a, b = torch.randn(B, D), torch.randn(data.n_items, D)
    matmul = clock(lambda: a@b.T, 8)[0]
    # a step: 2 products forward, 2 backward; Adam reads and writes 3 tables and reads 1 more (3.5 copies); the two gradient tables are written and read once (2 copies)
    return dict(product=product, copy=copy, matmul=matmul,
                epoch=steps*(2*L*product + 5.5*copy), evaluate=len(users)/B*matmul)

def child(name, threads):
    import torch
    torch.set_num_threads(threads)
    from causalmmr.models.classic import LightGCN
    from causalmmr.train import Pairs, adam, epoch, evaluate, rng
    data, kind = pairs_of(name)
    ours, pairs = LightGCN(data, rng(0), d=D, L=L, reg=1e-3), Pairs(data)
    opt = adam(ours, 1e-3)
    def train():
        ours.train()
        for b in epoch(pairs, BATCH, ours.g): ours.step(opt, *b)
    metrics = ('recall', 'ndcg', 'precision', 'map')
    rank = lambda: evaluate(ours, data, ks=KS, metrics=metrics)
    t, e = clock(train, 5), clock(rank, 3)
    mine = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**20
    low = floor(ours, data)
    peer = Peer(data)
    tp, ep = clock(peer.epoch, 2), clock(peer.evaluate, 1)
    peer.x_u.data, peer.x_i.data = ours.x0.data[:peer.U].clone(), ours.x0.data[peer.U:].clone()      # same weights, same figures?
    same = max(abs(v - rank().mean()[k]) for k, v in peer.evaluate().items())
    return dict(data=name, pairs=kind, threads=threads, epoch=t[0], epoch_peer=tp[0], epoch_floor=low['epoch'], evaluate=e[0], evaluate_peer=ep[0],
                evaluate_floor=low['evaluate'], metrics_differ_by=same, peak_gib=mine, peak_gib_with_peer=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**20,
                rates={k: low[k] for k in ('product', 'copy', 'matmul')})

def main():
    ap = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    ap.add_argument('--data', nargs='+', default=['baby', 'sports'], choices=list(SIZES))
    ap.add_argument('--threads', nargs='+', type=int, default=[1, 2])
    ap.add_argument('--out', default=None, help='write the rows as JSON here')
    ap.add_argument('--child', nargs=2, help=argparse.SUPPRESS)
    a = ap.parse_args()
    if a.child: print(json.dumps(child(a.child[0], int(a.child[1])))); return
    rows = []
    print(f"{'data':7} {'threads':>7} | {'epoch':>7} {'peer':>7} {'floor':>7} {'/peer':>6} {'/floor':>6} | {'eval':>7} {'peer':>7} {'floor':>7} {'/peer':>6} {'/floor':>6} | {'peak GiB':>8}")
    for name in a.data:
        for t in a.threads:
            env = dict(os.environ, OMP_NUM_THREADS=str(t), MKL_NUM_THREADS=str(t), OMP_WAIT_POLICY='PASSIVE', MALLOC_MMAP_THRESHOLD_=str(2**30),
                       MALLOC_TRIM_THRESHOLD_=str(2**30), MALLOC_TOP_PAD_=str(2**28))
            r = json.loads(subprocess.run([sys.executable, __file__, '--child', name, str(t)], env=env, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
            rows.append(r)
            print(f"{name:7} {t:7} | {r['epoch']:6.2f}s {r['epoch_peer']:6.2f}s {r['epoch_floor']:6.2f}s {r['epoch']/r['epoch_peer']:6.3f} {r['epoch']/r['epoch_floor']:6.2f} | "
                  f"{r['evaluate']:6.2f}s {r['evaluate_peer']:6.2f}s {r['evaluate_floor']:6.2f}s {r['evaluate']/r['evaluate_peer']:6.3f} {r['evaluate']/r['evaluate_floor']:6.2f} | {r['peak_gib']:8.2f}", flush=True)
    print(f"pairs: {', '.join(sorted({r['pairs'] for r in rows}))}; the metrics of both evaluations differ by at most {max(r['metrics_differ_by'] for r in rows):.0e}")
    if a.out: Path(a.out).write_text(json.dumps(rows, indent=1))

if __name__ == '__main__': main()
