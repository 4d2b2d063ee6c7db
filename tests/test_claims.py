"The page of claims: its verdicts come from results, and turn when they turn."
import json
from pathlib import Path
import matplotlib
import pandas as pd
import pytest
from causalmmr.pages import results_dir
from causalmmr.verdicts import HOLDS, FAILS, ON_SIMULATOR, UNMEASURED, UNTESTABLE, verdict_on

matplotlib.use('Agg')
ROOT = Path(__file__).parent.parent
POSITIVE = {HOLDS, ON_SIMULATOR[HOLDS]}
NEGATIVE = {FAILS, ON_SIMULATOR[FAILS]}

@pytest.fixture(scope='module')
def papers(): # paper -> its claims, as the page defines them
    cells = [''.join(c['source']) for c in json.loads((ROOT/'nbs/claims.ipynb').read_text())['cells'] if c['cell_type'] == 'code']
    found = {}
    for source in cells:
        if 'judged =' in source: break
        exec(compile(source, 'claims', 'exec'), found)
    return {p: found[p] for p in ('camrec', 'fmmrec', 'addrl', 'painvrl')}

def mirrored(t): # a frame of results with every measured quantity turned
    t = t.copy()
    pairs = {('lo', 'hi'), ('lo_runs', 'hi_runs')}
    for c in {'value', 'mean', 'diff', 'auc', 'official', 'chance95'} & set(t.select_dtypes('number')): t[c] = -t[c]
    for a,b in pairs:
        if {a, b} <= set(t): t[a],t[b] = -t[b],-t[a]
    return t

def test_no_results_no_verdicts(papers, tmp_path):
    words = {verdict_on(c, tmp_path).word for claims in papers.values() for c in claims}
    assert words == {UNMEASURED, UNTESTABLE}

def test_verdicts_turn_with_the_results(papers, tmp_path):
    "A typed verdict, or a judge that reads something else than its results, would stay."
    for p in results_dir().glob('*.parquet'):
        t = pd.read_parquet(p)
        turned = mirrored(t)
        if {'metric', 'value'} <= set(t): turned['value'] = turned.value.where(~t.metric.str.contains('two_se'), t.value)  # a width stays
        turned.to_parquet(tmp_path/p.name)
    n = 0
    for c in (c for claims in papers.values() for c in claims):
        before,after = verdict_on(c),verdict_on(c, tmp_path)
        signed = not any(x.text or x.what.startswith(('move to', 'hypervolume')) for parts in before.found.values() for x in parts)
        if before.word in POSITIVE and signed:
            n += 1
            assert after.word in NEGATIVE, c
    assert n > 5

def test_every_line_of_the_list_is_there(papers):
    ids = {p: [c.id for c in claims] for p,claims in papers.items()}
    wanted = dict(camrec='C1 C2 C3 C4 C5 C6', fmmrec='F1 F2 F3 F4 F5 F6', addrl='A1 A2 A3 A4 A5', painvrl='P1 P2 P3 P4 P5')
    for p,names in wanted.items(): assert set(names.split()) <= set(ids[p]) and 'asked' in ids[p]
    assert ids['fmmrec'].count('breaks if') == 3

def test_a_claim_is_measured_by_a_table_that_exists(papers):
    tables = {p.stem for p in (ROOT/'nbs/tables').glob('*.ipynb')}
    named = {c.table for claims in papers.values() for c in claims if c.table}
    assert named <= tables
    assert all(bool(c.judge) == bool(c.table) for claims in papers.values() for c in claims)
