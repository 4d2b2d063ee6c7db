"""The metrics judged by others: trec_eval (through pytrec_eval) and scikit-learn; the statistics by simulation."""
import numpy as np, pytest, pytrec_eval, torch
from scipy import stats
from sklearn.metrics import ndcg_score
from causalmmr.data import BadInput
from causalmmr.metrics import (METRICS, average_precision, bootstrap_ci, compare_table, gini, hits, holm, mrr,
                               n_relevant, ndcg, pair_keys, paired_t, wilcoxon)

U,I,K = 300,200,50
CUTS = (1,5,10,20,50)
EPS = 1e-9

@pytest.fixture(scope='module')
def case():
    "Random scores and 1 to 120 relevant items per user: fewer, as many and more than every cutoff."
    r = np.random.default_rng(0)
    scores = r.normal(size=(U,I))
    rel = [np.sort(r.permutation(I)[:n]) for n in np.r_[1, 5, 10, 20, 50, r.integers(1, 121, U-5)]]
    pairs = torch.tensor([[u,i] for u,items in enumerate(rel) for i in items]).T
    users,top = torch.arange(U), torch.tensor(scores).topk(K, dim=1)[1]
    keys = pair_keys(pairs[:,torch.randperm(pairs.shape[1], generator=torch.Generator().manual_seed(0))], I)
    return dict(scores=scores, rel=rel, top=top, hit=hits(top, keys, users, I), n=n_relevant(keys, users, I))

def trec(rel, top, measure, k=K):
    "trec_eval on the first k places: one value per user, 0 for users without a query."
    run = {str(u): {str(i): float(len(row)-r) for r,i in enumerate(row[:k])} for u,row in enumerate(top.tolist())}
    qrel = {str(u): {str(i): 1 for i in items} for u,items in enumerate(rel) if len(items)}
    name = measure.replace('_cut.', '_cut_').replace('.', '_')
    out = pytrec_eval.RelevanceEvaluator(qrel, {measure}).evaluate({u: run[u] for u in qrel})
    return np.array([out[str(u)][name] if str(u) in out else 0. for u in range(len(rel))])

def close(ours, theirs): np.testing.assert_allclose(ours.numpy(), theirs, rtol=0, atol=EPS)

@pytest.mark.parametrize('k', CUTS)
@pytest.mark.parametrize('name,measure', dict(recall='recall', precision='P', hit='success', ndcg='ndcg_cut').items())
def test_trec_eval_agrees(case, name, measure, k):
    close(METRICS[name](case['hit'], case['n'], k), trec(case['rel'], case['top'], f'{measure}.{k}'))

@pytest.mark.parametrize('k', CUTS)
def test_trec_eval_agrees_on_average_precision(case, k):
    theirs,n = trec(case['rel'], case['top'], f'map_cut.{k}'), case['n'].numpy()
    close(average_precision(case['hit'], case['n'], k, 'n'), theirs)
    close(METRICS['map'](case['hit'], case['n'], k), theirs*n/np.minimum(n, k))     # MMRec's denominator

@pytest.mark.parametrize('k', CUTS)
def test_trec_eval_agrees_on_reciprocal_rank(case, k): # it has no cutoff: the run is cut instead
    close(mrr(case['hit'], case['n'], k), trec(case['rel'], case['top'], 'recip_rank', k))

@pytest.mark.parametrize('k', CUTS)
def test_trec_eval_agrees_on_the_hits_denominator(case, k):
    "Told that only what was found is relevant, trec_eval computes the 'hits' form."
    found = [np.intersect1d(items, row[:k]) for items,row in zip(case['rel'], case['top'].numpy())]
    ours = ndcg(case['hit'], case['n'], k, 'hits')
    close(ours, trec(found, case['top'], f'ndcg_cut.{k}'))
    assert k==1 or (ours > ndcg(case['hit'], case['n'], k) + .1).any()              # another figure, but at k = 1

@pytest.mark.parametrize('k', CUTS)
def test_scikit_learn_agrees_on_ndcg(case, k):
    gain = np.zeros((U,I))
    for u,items in enumerate(case['rel']): gain[u,items] = 1
    theirs = [ndcg_score(gain[[u]], case['scores'][[u]], k=k) for u in range(U)]
    close(ndcg(case['hit'], case['n'], k), theirs)

def test_users_without_relevant_items_are_nan_and_change_nobody_else(case):
    hit,n = torch.cat([case['hit'], torch.zeros(1,K).bool()]), torch.cat([case['n'], torch.tensor([0])])
    for f in METRICS.values():
        x = f(hit, n, 20)
        assert x[-1].isnan() and x.dtype==torch.float64 and torch.equal(x[:-1], f(case['hit'], case['n'], 20))
        with pytest.raises(BadInput, match='nothing to find'): bootstrap_ci(x, torch.Generator())

def test_a_large_catalogue_does_not_overflow():
    "Keys are int64 even if ids arrive as int32: ten million users times a million items."
    users,top = torch.tensor([9_999_999], dtype=torch.int32), torch.tensor([[999_999, 0]], dtype=torch.int32)
    keys = pair_keys(torch.tensor([[9_999_999],[999_999]], dtype=torch.int32), 1_000_000)
    assert hits(top, keys, users, 1_000_000).tolist()==[[True,False]]
    assert n_relevant(keys, users, 1_000_000).tolist()==[1]

def test_gini_is_the_mean_absolute_difference(): # the definition, pair by pair
    top = torch.randint(30, (200,5), generator=torch.Generator().manual_seed(0))**2 % 30
    c = np.bincount(top.flatten().numpy(), minlength=30)
    assert gini(top, 30)==pytest.approx(abs(c[:,None]-c).sum()/(2*30*29*c.mean()), abs=1e-12)

# ---- statistics

def test_bootstrap_interval_covers_the_truth():
    "400 skewed samples (exponential, mean 1), each with its own resamples: about 95 %; without sqrt(n), always."
    g,x = torch.Generator().manual_seed(0), np.random.default_rng(0).exponential(size=(400,200))
    ends = torch.stack([bootstrap_ci(row, g, n=500) for row in x])
    cover = ((ends[:,0]<=1) & (1<=ends[:,1])).double().mean()
    spread = np.quantile(x, [.025,.975], axis=1)                    # the wrong twin: where users lie, not the mean
    assert .92 <= cover <= .975 and ((spread[0]<=1) & (1<=spread[1])).mean()==1

def test_bootstrap_agrees_with_scipy():
    x = np.random.default_rng(1).beta(.5, 3, 500)
    theirs = stats.bootstrap((x,), np.mean, method='percentile', n_resamples=20_000, rng=np.random.default_rng(2))
    ours = bootstrap_ci(x, torch.Generator().manual_seed(0), n=20_000)
    np.testing.assert_allclose(ours, theirs.confidence_interval, atol=5e-4)         # the interval is .025 wide

def test_bootstrap_memory_is_bounded():
    "A hundred thousand users and 50 resamples in small blocks: no array of 5 million draws is made."
    x,g,sizes = torch.rand(100_000, generator=torch.Generator().manual_seed(0)), torch.Generator().manual_seed(0), []
    real = torch.bincount
    def spy(i, **kw): sizes.append(i.numel()); return real(i, **kw)
    with pytest.MonkeyPatch.context() as m:
        m.setattr(torch, 'bincount', spy)
        bootstrap_ci(x, g, n=50, block=300_000)
    assert max(sizes)<=300_000 and sum(sizes)==5_000_000

def test_paired_tests_agree_with_scipy_and_beat_the_unpaired_twin():
    r = np.random.default_rng(0)
    level = r.beta(.5, 3, 400)
    x,y = level + r.normal(.01, .05, 400), level + r.normal(0, .05, 400)
    assert paired_t(x, y)==pytest.approx(stats.ttest_rel(x, y).pvalue, rel=1e-6) and paired_t(x, y) < .01
    assert wilcoxon(x, y)==pytest.approx(stats.wilcoxon(x, y).pvalue, rel=1e-6) and wilcoxon(x, y) < .01
    assert stats.ttest_ind(x, y).pvalue > .05 and stats.mannwhitneyu(x, y).pvalue > .05

def test_holm_rejects_step_by_step():
    "The procedure as published: go up from the smallest, stop at the first that fails."
    r = np.random.default_rng(0)
    for p in r.uniform(0, 1, (200,7))**4:
        rejected = np.zeros(7, bool)
        for step,i in enumerate(np.argsort(p)):
            if p[i] > .05/(7-step): break
            rejected[i] = True
        assert ((holm(p)<=.05)==rejected).all()

def test_compare_table_takes_tensors_arrays_and_lists_alike():
    x = torch.rand(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kinds = (lambda t: t, torch.Tensor.numpy, torch.Tensor.tolist)
    tables = [compare_table(dict(a=f(x), b=f(x**2)), 'a') for f in kinds]
    assert tables[0].equals(tables[1]) and tables[0].equals(tables[2])
