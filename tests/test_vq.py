"Codebooks beside vector-quantize-pytorch, and at their edges: sizes, duplicates, saving and loading, seeds, cost."
import os, subprocess, sys
import pytest, torch, torch.nn.functional as F
from causalmmr.causal.vq import Codebook, ResidualCodebook, Strata, revive, soft_codes, sqdist, straight_through, vq_loss
from causalmmr.data import BadInput

def rng(seed): return torch.Generator().manual_seed(seed)
def items(n=500, d=16, seed=0): return torch.randn(n, d, generator=rng(seed))

def peer(book, **kw): # the same codebook in vector-quantize-pytorch
    vq = pytest.importorskip('vector_quantize_pytorch')
    K,d = book.codes.shape
    v = vq.VectorQuantize(dim=d, codebook_size=K, decay=book.decay, commitment_weight=book.beta, rotation_trick=False, **kw)
    c = v._codebook
    with torch.no_grad():
        c.embed.copy_(book.codes[None]); c.embed_avg.copy_(book.codes[None]); c.cluster_size.fill_(1.)
    return v

def spread(book, scale): # codes far enough apart that no rounding decides which is nearest
    with torch.no_grad(): book.codes.copy_(scale*torch.randn(book.codes.shape, generator=rng(9)))
    if book.ema: book.total.copy_(book.codes)
    return book

@pytest.mark.parametrize('K,d', [(1, 4), (7, 3), (50, 64)])
def test_parity_of_codes_loss_and_running_means(K, d):
    book = spread(Codebook(rng(1), K, d, beta=.25, ema=True, decay=.8), .5); other = peer(book).train()
    x = items(300, d); y = x.clone().requires_grad_(); x.requires_grad_(); w = items(300, d, 3)
    for step in range(5):
        k,q,loss = book.match(x),book(x),book.loss(x)
        q2,k2,loss2 = other(y)                                             # updates its codebook on the way
        assert torch.equal(k, k2), step
        assert torch.allclose(q, q2, atol=1e-5) and torch.allclose(loss, loss2.sum(), atol=1e-6), step
        (a,),(b,) = (torch.autograd.grad((z*w).sum()+l.sum(), v) for z,l,v in ((q, loss, x), (q2, loss2, y)))
        assert torch.allclose(a, b, atol=1e-5), step
        book.update(x, rng(0))
        assert torch.allclose(book.codes, other.codebook, atol=1e-5) and torch.allclose(book.size, other._codebook.cluster_size[0], atol=1e-4), step
    assert K == 1 or (book.codes-spread(Codebook(rng(1), K, d, ema=True), .5).codes).abs().max() > .05  # it did move

def test_the_peer_without_stopped_gradients_is_the_released_loss():
    book = spread(Codebook(rng(1), 12, 16, beta=.2, released_loss=True), .5)
    other = peer(book, learnable_codebook=True, ema_update=False); other.commitment_weight = 1.2; other.train()
    x = items().requires_grad_(); y = items().requires_grad_()
    _,k,loss2 = other(y); loss = book.loss(x)
    assert torch.equal(book.match(x), k) and torch.allclose(loss, loss2.sum(), atol=1e-6)
    a = torch.autograd.grad(loss, [x, book.codes]); b = torch.autograd.grad(loss2.sum(), [y, other._codebook.embed])
    assert torch.allclose(a[0], b[0], atol=1e-6) and torch.allclose(a[1], b[1][0], atol=1e-6)
    right = Codebook(rng(1), 12, 16, beta=.2); right.load_state_dict(book.state_dict())
    c = torch.autograd.grad(right.loss(x), [x, right.codes])
    assert torch.allclose(6*c[0], a[0], atol=1e-6) and torch.allclose(1.2*c[1], a[1], atol=1e-6) and not torch.allclose(c[0], a[0], atol=1e-4)

def test_parity_of_two_levels():
    vq = pytest.importorskip('vector_quantize_pytorch')
    two = ResidualCodebook(rng(1), (9, 9), 16); spread(two.levels[0], .8)
    with torch.no_grad(): two.levels[1].codes.copy_(.4*torch.randn(9, 16, generator=rng(8)))
    other = vq.ResidualVQ(dim=16, codebook_size=9, num_quantizers=2).eval()
    with torch.no_grad():
        for layer,book in zip(other.layers, two.levels): layer._codebook.embed.copy_(book.codes[None])
    x = items(); q,k,_ = other(x[None])
    assert torch.equal(two.match(x), k[0]) and torch.allclose(two(x), q[0], atol=1e-5)

def test_dead_codes_like_the_peer():
    "Which codes are revived is the same; which rows they get is drawn by each its own way."
    book = spread(Codebook(rng(1), 30, 4, ema=True, decay=.5, dead=2.), 3.); other = peer(book, threshold_ema_dead_code=2.).train()
    x = items(60, 4)
    book.update(x, rng(0)); other(x)
    same = (book.codes-other.codebook).abs().max(1).values < 1e-5
    assert 0 < same.sum() < 30 and torch.allclose(book.size, other._codebook.cluster_size[0], atol=1e-5)
    assert all((x == c).all(1).any() for c in book.codes[~same]) and all((x == c).all(1).any() for c in other.codebook[~same])

@pytest.mark.parametrize('n', [0, 1, 3, 1000])
def test_any_number_of_rows(n):
    for book in (Codebook(rng(0), 5, 8, dead=1.), Codebook(rng(0), 5, 8, ema=True, decay=.5, dead=1.), ResidualCodebook(rng(0), (3, 4), 8, dead=1.)):
        x = items(n, 8); book.update(x, rng(1))
        assert all(b.isfinite().all() for b in book.state_dict().values()) and len(book.match(x)) == n
        if n: assert book.train()(x).shape == book.eval()(x).shape == x.shape and book.loss(x).isfinite()

def test_identical_items():
    x = torch.ones(50, 8)
    book = Codebook(rng(0), 5, 8, ema=True, decay=.5, dead=1.)
    for _ in range(20): book.update(x, rng(1))
    assert book.codes.isfinite().all() and torch.allclose(book.train()(x), x, atol=1e-3) and book.loss(x) < 1e-5

def test_extreme_values_stay_finite():
    x = 1e4*items()
    for sign,tau in ((False, 0.), (False, 1.), (True, 1.)):
        q = Codebook(rng(0), 50, 16, tau=tau, released_sign=sign).eval()(x)
        assert q.isfinite().all() and q.abs().max() <= 1/50+1e-6             # a mean of codes lies among the codes
        assert torch.allclose(soft_codes(sqdist(x, x[:5]), 1., sign).sum(1), torch.ones(500), atol=1e-5)

def test_evaluation_has_no_noise_and_training_sets_no_state():
    book = Codebook(rng(0), 9, 16); x = items(); before = {k: v.clone() for k,v in book.state_dict().items()}
    book(x); book.loss(x); book.match(x); book.eval()(x)
    assert all(torch.equal(v, before[k]) for k,v in book.state_dict().items())   # only update changes it, and the optimiser
    assert torch.equal(book(x), book(x))

def test_resume_in_the_middle():
    def go(book, g, n):
        for k in range(n): book.update(items(200, 8, k), g)
        return book
    make = lambda: Codebook(rng(0), 30, 8, ema=True, decay=.9, dead=1.)
    g = rng(5); whole = go(make(), g, 6)
    g = rng(5); half = go(make(), g, 3); state,saved = g.get_state(),{k: v.clone() for k,v in half.state_dict().items()}
    again = make(); again.load_state_dict(saved); h = rng(0); h.set_state(state)
    for k in range(3, 6): again.update(items(200, 8, k), h)
    assert all(torch.equal(whole.state_dict()[k], v) for k,v in again.state_dict().items())

def test_gradient_and_means_agree_on_easy_clumps():
    "Trained by Adam or by running means, revived codes find every clump."
    g = rng(0); centres = 5*torch.randn(8, 6, generator=g); z = torch.arange(8).repeat(40); x = centres[z]+.1*torch.randn(320, 6, generator=g)
    for ema in (False, True):
        book,h = Codebook(rng(1), 8, 6, ema=ema, decay=.8, dead=25.),rng(2)                # a clump has 40 items: two codes cannot share one
        opt = None if ema else torch.optim.Adam(book.parameters(), lr=.1)
        for step in range(200):
            if step == 100: book.dead = 0.
            if opt: opt.zero_grad(); book.loss(x).backward(); opt.step()
            book.update(x, h)
        d = torch.cdist(centres, book.codes.detach()).min(1).values
        assert (d < .5).all(), (ema, d)

def test_straight_through_through_the_strata():
    s = Strata(rng(0), K=7); C = items(30, 64).requires_grad_()
    q,_ = s(C); q.sum().backward()
    assert torch.allclose(C.grad, (torch.ones(30, 64)@s.back.weight@s.into.weight), atol=1e-4) and s.book.codes.grad is None

def test_the_global_seed_is_left_alone():
    torch.manual_seed(1); before = torch.random.get_rng_state()
    s = Strata(rng(0), K=(4, 6), dead=5.); s(items(30, 64)); s.book.update(items(30, 64), rng(1)); revive(Codebook(rng(0), 4, 3, dead=2.), items(9, 3), rng(0))
    assert torch.equal(before, torch.random.get_rng_state())

def test_bad_input_takes_one_sentence():
    for f in (lambda: Codebook(rng(0), 0), lambda: Codebook(rng(0), 5, 0), lambda: Codebook(rng(0), tau=-1), lambda: Codebook(rng(0), decay=1), lambda: ResidualCodebook(rng(0), (3,)),
              lambda: Codebook(rng(0), ema=True, released_loss=True), lambda: Strata(rng(0), K=0)):
        with pytest.raises(BadInput) as e: f()
        assert '\n' not in str(e.value)

def test_loss_is_zero_at_the_codes_only():
    e = items(20, 4)
    assert vq_loss(e, e) == 0 < vq_loss(e, e+1) and torch.allclose(vq_loss(e, e+1), torch.tensor(1.2))
    assert F.mse_loss(straight_through(e, e+1), e+1) < 1e-12

def test_cost_at_the_size_of_clothing():
    code = ('import time, torch; from causalmmr.causal.vq import Strata; g = torch.Generator().manual_seed(0); s = Strata(g, K=500); C = torch.randn(23033, 64, generator=g)\n'
            's(C[:9]); t = time.process_time(); q,e = s(C); (q.sum()+s.book.loss(e[:4096])).backward(); print(time.process_time()-t)')
    r = subprocess.run([sys.executable, '-c', code], env=os.environ | dict(OMP_NUM_THREADS='1'), capture_output=True, text=True, timeout=300)
    assert r.returncode == 0 and float(r.stdout) < 3, r.stdout+r.stderr
