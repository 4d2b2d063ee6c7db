"""Full-ranking evaluation of AD-DRL at Sports size (35,598 users, 18,357 items, 5 chunks of 32, three views), beside the expanded form.

    python benchmarks/bench_addrl.py                 one thread; the expanded form on 40 users, scaled to all
    python benchmarks/bench_addrl.py --threads 2 --users 100

The expanded form is what the released evaluation does: 20 users at a time, all three views of every item repeated for each of
them, fused again for every pair. Ours computes the fused items once and the scores by one product per chunk. Both score the same
users with the same weights; the largest difference of a score is printed, and must be below 1e-5. Only the scores of the expanded
form are timed, without the ranking that both need; ours is timed with everything: scores, masking, top 50 and all metrics.
Each side runs in a process of its own, so that the peak memory is its own. Without real data in CAUSALMMR_DATA the pairs are a
random graph of the same size. Features are random numbers of the paper's widths (the real set at hand has one view, not three).
"""
import argparse, json, os, resource, subprocess, sys, time

U, I, E = 35_598, 18_357, (218_409, 40_029, 37_899)

def data_of():
    "Sports' pairs with made features and attributes: as many classes as the released model has there."
    import numpy as np, pandas as pd, torch
    from causalmmr.data import BadInput, MMData
    from causalmmr.formats import load
    g = torch.Generator().manual_seed(0)
    try: d = load('sports'); pairs, kind = (d.train, d.valid, d.test), 'real'
    except BadInput:
        item = lambda n: (I*torch.rand(n, generator=g)**2).long()                   # popular items have small ids
        key = torch.cat([torch.arange(U)*I + item(U), torch.randint(U, (2*sum(E),), generator=g)*I + item(2*sum(E))]).unique()
        key = key[torch.randperm(len(key), generator=g)][:sum(E)]
        pairs, kind = [torch.stack([k//I, k % I]) for k in key.split(E)], 'random, same size'
    r = np.random.default_rng(0)
    items = pd.DataFrame({k: r.integers(0, n, I).astype(str) for k,n in dict(price_label=5, salesrank_label=5, brand_label=2081, category_label=18).items()})
    return MMData('sports', U, I, *pairs, {m: torch.randn(I, 1024, generator=g) for m in 'tv'}, items), kind

def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**20

def model_of(data):
    from causalmmr.models.addrl import ADDRL
    from causalmmr.train import rng
    return ADDRL(data, rng(0)).eval()

def ours(users, scores):
    import torch
    from causalmmr.train import evaluate
    data, kind = data_of(); m = model_of(data); held = peak()
    t = time.perf_counter(); r = evaluate(m, data); t = time.perf_counter()-t
    with torch.no_grad(): m.eval(); torch.save(m.scores(r.users[:users]), scores)
    return dict(data=kind, seconds=t, users=len(r.users), chunks=len(m.chunks), before_gib=held, peak_gib=peak())

def expanded(users, scores):
    import torch, torch.nn.functional as F
    data, _ = data_of(); m = model_of(data); held = peak(); who = data.test[0].unique(); out, times = [], []
    F_, c, I_ = len(m.chunks), m.c, data.n_items
    with torch.no_grad():
        v = m.views(torch.arange(I_))                                                # projections once; the released code does so too
        for block in who[:users].split(20):
            t = time.perf_counter()
            u = F.normalize(m.split(m.x_u[block]), dim=-1)[:,None].expand(-1, I_, -1, -1).reshape(-1, F_, c)
            w = v[None].expand(len(block), -1, -1, -1, -1).reshape(-1, v.shape[1], F_, c)   # 20 x items x d for three views
            out.append(F.softplus((u*m.fused(w)).sum(-1)).sum(-1).view(len(block), I_)); times.append((time.perf_counter()-t)/len(block))
    gap = (torch.cat(out)-torch.load(scores, weights_only=True)).abs().max().item()
    return dict(seconds=sorted(times)[len(times)//2]*len(who), timed_users=users, differ_by=gap, before_gib=held, peak_gib=peak())

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--threads', type=int, default=1); p.add_argument('--users', type=int, default=40, help='users that the expanded form scores')
    p.add_argument('--json', action='store_true', help='one line of JSON'); p.add_argument('--child', nargs=2, help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.child:
        import torch; torch.set_num_threads(a.threads)
        print(json.dumps(dict(ours=ours, expanded=expanded)[a.child[0]](a.users, a.child[1]))); return
    import tempfile
    env = dict(os.environ, OMP_NUM_THREADS=str(a.threads), OMP_WAIT_POLICY='PASSIVE')
    with tempfile.TemporaryDirectory() as box:
        run = lambda who: json.loads(subprocess.run([sys.executable, __file__, '--threads', str(a.threads), '--users', str(a.users), '--child', who, f'{box}/scores.pt'],
                                                    env=env, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        o, x = run('ours'), run('expanded')
    row = dict(pairs=o['data'], threads=a.threads, users=o['users'], ours_s=round(o['seconds'], 1), expanded_s=round(x['seconds'], 1), times_faster=round(x['seconds']/o['seconds'], 1),
               scores_differ_by=x['differ_by'], ours_peak_gib=round(o['peak_gib'], 2), expanded_peak_gib=round(x['peak_gib'], 2), of_it_data_gib=round(o['before_gib'], 2))
    if a.json: print(json.dumps(row))
    else:
        print(f"AD-DRL, full ranking of {o['users']:,} users over {I:,} items ({o['data']} pairs), {a.threads} thread(s): ours {row['ours_s']} s with metrics, expanded {row['expanded_s']} s for the scores alone "
              f"(from {a.users} users): {row['times_faster']} times; scores differ by at most {row['scores_differ_by']:.0e}; peak {row['ours_peak_gib']} GiB against {row['expanded_peak_gib']} GiB")
    assert row['scores_differ_by'] < 1e-5 and row['times_faster'] >= 20, row

if __name__ == '__main__': main()
