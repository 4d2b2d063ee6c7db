"""Does an epoch cost in proportion to the data? Interactions from 10^5 to 10^7, and the slope on logarithmic axes.

    python benchmarks/bench_scale.py                             MF-BPR, LightGCN and UltraGCN, one thread
    python benchmarks/bench_scale.py --pairs 100000 1000000 --models MFBPR

Users have ten interactions on average and there are a fifth as many items as users; popular items are drawn more often. A batch is a
fiftieth of the pairs, so that every epoch has fifty steps: a model that propagates over the whole graph at every step costs E a step,
and with batches of a fixed size its epoch would grow with the square of E. Each (model, size) runs in a process of its own, whose
own time on the processor is counted. An epoch is all of its negatives drawn and fifty times the median step; what the model builds
once is printed beside it.
EASE has no epoch: its one matrix has a side of all items, and the number of items that it takes is printed beside.
"""
import argparse, json, os, resource, subprocess, sys, time

MODELS = ('MFBPR', 'LightGCN', 'UltraGCN')
PAIRS = (100_000, 300_000, 1_000_000, 3_000_000, 10_000_000)
STEPS = 50

def made(n_pairs):
    "A random set of so many training pairs."
    import torch
    from causalmmr.data import MMData
    n_users, n_items = n_pairs//10, n_pairs//50
    g = torch.Generator().manual_seed(0)
    user = torch.randint(n_users, (n_pairs*13//10,), generator=g)
    item = (n_items*torch.rand(len(user), generator=g)**2).long()                # popular items have small ids
    key = torch.cat([torch.arange(n_users)*n_items + item[:n_users], user*n_items + item]).unique()
    key = key[torch.randperm(len(key), generator=g)]
    part = key.split([n_pairs, n_users, len(key)-n_pairs-n_users])[:2]
    train, valid = (torch.stack([k//n_items, k % n_items]) for k in part)
    return MMData('made', n_users, n_items, train, valid, valid)

def child(model, n_pairs, taken=3):
    import itertools, torch
    torch.set_num_threads(1)
    from causalmmr.cli import find_model
    from causalmmr.train import Pairs, adam, epoch, rng
    data, clock = made(n_pairs), time.process_time
    start = clock()
    m = find_model(model)(data, rng(0))
    pairs, opt = Pairs(data), adam(m, 1e-3)
    m.train()
    m.start_epoch(0)
    built = clock()-start
    start = clock()
    batches = list(itertools.islice(epoch(pairs, -(-n_pairs//STEPS), m.g, m.n_neg, m.reject), taken+1))
    drawn = (clock()-start)*STEPS/len(batches)
    steps = []
    for b in batches:
        start = clock()
        m.step(opt, *b)
        steps.append(clock()-start)
    step = sorted(steps[1:])[taken//2]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**20
    return dict(model=model, pairs=data.train.shape[1], built=built, drawn=drawn, step=step, epoch=drawn+STEPS*step, gib=peak)

def run(model, n_pairs):
    env = dict(os.environ, OMP_NUM_THREADS='1', OMP_WAIT_POLICY='PASSIVE', MALLOC_MMAP_THRESHOLD_=str(2**30),
               MALLOC_TRIM_THRESHOLD_=str(2**30))
    r = subprocess.run([sys.executable, '-W', 'ignore', __file__, '--child', model, str(n_pairs)], env=env, capture_output=True, text=True)
    if r.returncode: return dict(model=model, pairs=n_pairs, failed=(r.stderr.strip().splitlines() or ['?'])[-1])
    return json.loads(r.stdout.splitlines()[-1])

def slope(rows, key):
    "Least squares of log time on log pairs."
    import numpy as np
    x, y = (np.log([r[k] for r in rows]) for k in ('pairs', key))
    return np.polyfit(x, y, 1)[0]

def main():
    ap = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    ap.add_argument('--models', nargs='+', default=MODELS)
    ap.add_argument('--pairs', nargs='+', type=int, default=PAIRS)
    ap.add_argument('--child', nargs=2, help=argparse.SUPPRESS)
    a = ap.parse_args()
    if a.child: return print(json.dumps(child(a.child[0], int(a.child[1]))))
    print('model        pairs        built      epoch       step     peak')
    for model in a.models:
        own = []
        for n in a.pairs:
            r = run(model, n)
            print(f"{model:10} {n:10,} " + (r['failed'] if 'failed' in r else
                  f"{r['built']:8.2f} s {r['epoch']:8.2f} s {r['step']:8.3f} s {r['gib']:6.2f} GiB"), flush=True)
            if 'failed' not in r: own.append(r)
        if len(own) > 1: print(f"{model}: an epoch grows with the pairs to the power {slope(own, 'epoch'):.2f}", flush=True)
    from causalmmr.models.classic import EASE
    print(f'EASE: at most {EASE.most:,} items, whatever the pairs; more are refused before work starts')

if __name__ == '__main__': main()
