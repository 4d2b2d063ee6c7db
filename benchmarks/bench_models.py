"""What every model costs: an epoch, a full ranking and the peak memory, as multiples of a LightGCN-2 epoch written as the peers write it.

    make bench                                                    with the other benchmarks
    python benchmarks/bench_models.py --models CaMRec VBPR        only these
    python benchmarks/bench_models.py --data tiktok --threads 1 --steps 20 --out rows.json

Every model runs in a process of its own, with its defaults and batches of 2,048. After each of its steps the peer of bench.py makes
one, so that a noisy machine is noisy for both; what is printed is a ratio of medians. An epoch is: what the model does at its
start, all negatives drawn, and the median step times the number of steps. With one thread the clock counts the process's own time on
the processor, with more threads it is the wall's. The bars are a quarter of what the peers' own code of that model costs, in the
same unit (LightGCN: .15; a full ranking: .12 of the peer's epoch); a model without a bar has no peer.
Sets: TikTok with its features, and Baby's pairs with made features 4,096 and 384 wide. Without real data in CAUSALMMR_DATA both are
random graphs of the same size with made features, and the table says so.
"""
import argparse, json, os, resource, subprocess, sys, time
from bench import BATCH, L, Peer, SIZES, pairs_of

SIZES['tiktok'] = (9308, 6710, 59541, 3051, 6197)
WIDTHS = dict(tiktok=dict(v=128, a=128), baby=dict(v=4096, t=384))
BARS = dict(MFBPR=.05, LightGCN=.15, VBPR=.27, FREEDOM=1., BM3=1., MGCN=1.4, LATTICE=2.85, LGMRec=3.4, GRCN=3.5, DRAGON=4.2, MMGCN=5.5)
RANK_BAR = .12

def data_of(name):
    "The set with features: its own where they are at hand, else made ones of the same width."
    import torch
    from causalmmr.data import replace
    data, kind = pairs_of(name)
    if data.feats and name != 'baby': return data, kind
    g = torch.Generator().manual_seed(0)
    return replace(data, feats={m: torch.randn(data.n_items, d, generator=g) for m, d in WIDTHS[name].items()}), f'{kind}, made features'

def median(x): return sorted(x)[len(x)//2]

def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**20

def child(name, model, threads, steps):
    import itertools, torch
    torch.set_num_threads(threads)
    from causalmmr.cli import find_model
    from causalmmr.train import Pairs, adam, epoch, evaluate, rng
    clock = time.process_time if threads == 1 else time.perf_counter
    def timed(f):
        t = clock(); f(); return clock()-t
    (data, kind), M = data_of(name), find_model(model)
    at_start = peak()
    m = M(data, rng(0), **(dict(L=L) if model == 'LightGCN' else {}))
    pairs, opt = Pairs(data), adam(m, 1e-3)
    m.train()
    once = timed(lambda: m.start_epoch(0))
    batches = []
    drawn = timed(lambda: batches.extend(epoch(pairs, BATCH, m.g, m.n_neg, m.reject)))
    mine = [timed(lambda: m.step(opt, *b)) for b in itertools.islice(itertools.cycle(batches), 2)]       # to warm up, and for the peak
    ranking = min(timed(lambda: evaluate(m.eval(), data, ks=(5, 10, 20, 50))) for _ in range(2))
    high = peak()
    m.train()
    other, theirs, mine = Peer(data), [], []
    for b, rows in itertools.islice(zip(itertools.cycle(batches), itertools.cycle(other.batches())), steps):
        mine.append(timed(lambda: m.step(opt, *b)))
        theirs.append(timed(lambda: other.step(rows)))
    n = len(batches)
    return dict(model=model, data=name, pairs=kind, threads=threads, epoch=once+drawn+n*median(mine), start=once, drawn=drawn, step=median(mine), steps=n,
                peer_epoch=n*median(theirs), ranking=ranking, peak_gib=high, data_gib=at_start)

def run(name, model, threads, steps):
    env = dict(os.environ, OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads), OMP_WAIT_POLICY='PASSIVE', MALLOC_MMAP_THRESHOLD_=str(2**30),
               MALLOC_TRIM_THRESHOLD_=str(2**30))
    r = subprocess.run([sys.executable, '-W', 'ignore', __file__, '--child', name, model, str(threads), str(steps)], env=env, capture_output=True, text=True)
    if r.returncode: return dict(model=model, data=name, threads=threads, failed=(r.stderr.strip().splitlines() or ['?'])[-1])
    return json.loads(r.stdout.splitlines()[-1])

def line(r):
    if 'failed' in r: return f"{r['model']:12} {r['data']:7} {r['threads']:7} | {r['failed'][:100]}"
    unit, bar = r['peer_epoch'], BARS.get(r['model'])
    said = f'{bar:6.2f}' if bar else '     -'
    met = ' ' if not bar else '<' if r['epoch'] <= bar*unit else '>'
    return (f"{r['model']:12} {r['data']:7} {r['threads']:7} | {r['epoch']:8.2f}s {r['epoch']/unit:7.3f} {met} {said} | "
            f"{r['ranking']:7.2f}s {r['ranking']/unit:7.3f} {'<' if r['ranking'] <= RANK_BAR*unit else '>'} {RANK_BAR:5.2f} | {r['peak_gib']:6.2f} GiB | {unit:6.2f}s")

def main():
    ap = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    ap.add_argument('--models', nargs='+', default=None, help='names as in "causalmmr list"; all, if none is given')
    ap.add_argument('--data', nargs='+', default=list(WIDTHS), choices=list(WIDTHS))
    ap.add_argument('--threads', nargs='+', type=int, default=[1, 2])
    ap.add_argument('--steps', type=int, default=10, help='steps that are timed, beside as many of the peer')
    ap.add_argument('--out', default=None, help='write the rows as JSON here')
    ap.add_argument('--child', nargs=4, help=argparse.SUPPRESS)
    a = ap.parse_args()
    if a.child: print(json.dumps(child(a.child[0], a.child[1], *map(int, a.child[2:])))); return
    from causalmmr.cli import MODELS
    rows = []
    print(f"{'model':12} {'data':7} {'threads':>7} | {'epoch':>9} {'/peer':>7}   {'bar':>6} | {'ranking':>8} {'/peer':>7}   {'bar':>5} | {'peak':>10} | peer's epoch")
    for name in a.data:
        for threads in a.threads:
            for model in a.models or MODELS:
                rows.append(run(name, model, threads, a.steps))
                print(line(rows[-1]), flush=True)
    print('pairs:', '; '.join(sorted({f"{r['data']}: {r['pairs']}" for r in rows if 'pairs' in r})))
    if a.out:
        with open(a.out, 'w') as f: json.dump(rows, f, indent=1)

if __name__ == '__main__': main()
