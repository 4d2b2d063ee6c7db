"""Where a training step of CaMRec spends its time, beside a step of LightGCN: processor time of one thread.

    python benchmarks/bench_camrec.py                TikTok (CAUSALMMR_DATA), else the simulator's toy shop
    python benchmarks/bench_camrec.py --steps 20 -p released=True

The parts are timed where they are called, forward and backward; a part that calls another contains it. Whether numba was there is
printed, since the gates' loops need it. The losses of the first steps are printed too: another version of the code must have the same
to 1e-5, for it has drawn the same numbers. To compare two versions, run this file with PYTHONPATH at one and at the other, in turns.
"""
import argparse, ast, time

def watched(owner, name, label, spent):
    f = getattr(owner, name)
    def g(*a, **k):
        t = time.process_time()
        try: return f(*a, **k)
        finally: spent[label] = spent.get(label, 0.) + time.process_time()-t
    setattr(owner, name, staticmethod(g) if name == 'backward' else g)

def main():
    ap = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    ap.add_argument('--steps', type=int, default=10)
    ap.add_argument('-p', action='append', default=[], metavar='key=value', help='a setting of CaMRec')
    a = ap.parse_args()
    from importlib.util import find_spec
    import torch
    torch.set_num_threads(1)
    from causalmmr import graph
    from causalmmr.causal.scm import toy
    from causalmmr.data import BadInput
    from causalmmr.formats import load
    from causalmmr.models import camrec
    from causalmmr.models.classic import LightGCN
    from causalmmr.train import Pairs, adam, epoch, evaluate, rng
    try: data = load('tiktok')
    except BadInput: data = toy().data
    pairs, hp = Pairs(data), {k: ast.literal_eval(v) for k, v in (x.split('=', 1) for x in a.p)}

    def steps(m, spent=None):
        opt, times, losses = adam(m, 1e-3), [], []
        m.train(); m.start_epoch(0)
        for _, b in zip(range(a.steps+2), epoch(pairs, 2048, m.g)):
            if len(times) == 2 and spent is not None: spent.clear()                # two to warm up
            t = time.process_time(); losses.append(float(m.step(opt, *b))); times.append(time.process_time()-t)
        return sorted(times[2:])[len(times[2:])//2], losses, len(times)-2

    base, _, _ = steps(LightGCN(data, rng(0), L=2))
    spent, m = {}, camrec.CaMRec(data, rng(0), **hp)
    for owner, name, label in ((camrec.Adjusted, 'forward', 'features, channels, codebooks'), (camrec.EdgeGate, 'forward', 'logits of the gates'),
                               (camrec.Views, 'forward', 'both views'), (camrec, 'counted_nce', 'InfoNCE'), (camrec._EdgeLogits, 'backward', 'logits of the gates, backward'),
                               (graph._Product, 'backward', 'products, backward'), (camrec.CaMRec, 'loss', 'forward, all of it')): watched(owner, name, label, spent)
    step, losses, n = steps(m, spent)
    print(f'{data.name}, numba {"there" if find_spec("numba") else "not there"}: a step takes {1e3*step:.0f} ms, {step/base:.1f} steps of LightGCN ({1e3*base:.1f} ms)')
    for label, t in sorted(spent.items(), key=lambda x: -x[1]): print(f'  {label:32} {1e3*t/n:7.1f} ms  {t/n/step:5.0%}')
    print('losses', *(f'{x:.6f}' for x in losses[:6]))
    t = time.process_time(); evaluate(m, data, ks=(20,)); print(f'a full ranking takes {time.process_time()-t:.2f} s')

if __name__ == '__main__': main()
