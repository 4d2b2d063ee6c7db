"""Published figures stand beside ours only where they are of the same split."""
from pathlib import Path
import pandas as pd, pytest
from causalmmr import pages

RESULTS = Path(__file__).resolve().parent.parent/'results'
KNOWN = {'baby', *pages.SPLITS}                 # data sets whose split is known; other figures are of the papers' own data

def shown(name):
    "The published figures of a committed table, as (dataset, model, metric@k, value); tables hold them in two forms."
    t = pd.read_parquet(RESULTS/f'{name}.parquet')
    if 'paper_value' in t: t = t.assign(at=t.metric+'@'+t.k.astype(str), figure=t.paper_value)
    elif 'of_paper' in t: t = t.assign(at=t.metric, figure=t.paper)
    else: return []
    return [tuple(x) for x in t[t.figure.notna() & t.dataset.isin(KNOWN)][['dataset', 'model', 'at', 'figure']].drop_duplicates().to_numpy()]

def wrong(lines): return [l for l in lines if pages.published(l[0]).get(l[1:3], (None,))[0] != l[3]]

@pytest.mark.parametrize('name', sorted(p.stem for p in RESULTS.glob('*.parquet')))
def test_every_published_figure_shown_is_of_the_split_shown(name): assert not wrong(shown(name))

def test_the_check_finds_figures_of_other_splits():
    assert wrong([('sports', 'MFBPR', 'recall@20', .0653)])                         # MMRec's
    assert wrong([('baby', 'MFBPR', 'recall@20', .0440)])                           # MMSSL's, tested on our validation part
    assert not wrong([('baby-swapped', 'MFBPR', 'recall@20', .0440), ('sports', 'MFBPR', 'recall@20', .0430)])
    assert shown('classic') and shown('camrec_overall_tests')

def test_the_file_says_where_each_figure_was_read():
    t = pd.read_csv(RESULTS/'published.csv')
    assert t.source.str.len().min() > 10 and t.split.isin({'MMSSL', 'LATTICE'}).all() and t.value.between(0, .5).all()
    assert not t.duplicated(['dataset', 'split', 'model', 'metric', 'k']).any()
    assert {d for d, _ in pages.SPLITS.values()} == set(t.dataset)
