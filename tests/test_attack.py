"""The official figures on the vectors that FMMRec's authors released, and what rescaling does to both attackers."""
import numpy as np, pandas as pd, pytest, torch
from causalmmr.causal.scm import toy
from causalmmr.data import BadInput
from causalmmr.files import read_array
from causalmmr.fair import attack
from causalmmr.fair.attack import ATTACKERS, leakage, official, strict, views
from causalmmr.models.classic import MFBPR
from causalmmr.store import kept, kept_key
from causalmmr.train import rng

@pytest.fixture(scope='module')
def shipped(real_data):
    "The released LATTICE user vectors of MovieLens-1M, with labels and the attackers' test users."
    folder = real_data/'ml1m'; file = next((p for p in folder.glob('lattice_user*') if p.suffix in ('.npz', '.npy')), None)
    if file is None: pytest.skip(f'needs the released LATTICE vectors: no lattice_user file in {folder}')
    u = pd.read_parquet(folder/'users.parquet')
    labels = {a: torch.tensor(u[f'u_{a}'].to_numpy()).long() for a in ('gender', 'age', 'occupation')}
    return torch.tensor(np.asarray(read_array(file), np.float32)), labels, torch.tensor(u.attacker_test.to_numpy().astype(bool))

def test_official_figures_on_the_released_vectors(shipped):
    x, labels, test = shipped
    t = official(dict(explicit=x), labels, test).set_index('attribute')
    print(t.round(4))
    for a,v in dict(gender=.735, age=.487, occupation=.21).items(): assert abs(t.best[a]-v) < .01, (a, t.best[a])
    assert abs(t.prob_auc['gender']-.845) < .01

def test_a_quarter_of_the_scale_reads_as_perfectly_fair(shipped):
    "After its thousand epochs the attacker answers with the larger class; the best of a thousand test scores is an untrained epoch's luck."
    x, labels, test = shipped
    t = official(dict(explicit=.25*x), dict(gender=labels['gender']), test).iloc[0]
    assert abs(t['last']-.5) < .01 and t.best < .53 and t.prob_auc > .8

def test_strict_attackers_do_not_see_scale_or_rotation(shipped):
    x, labels, test = shipped
    Q = torch.linalg.qr(torch.randn(64, 64, generator=torch.Generator().manual_seed(1)))[0]
    t = strict(dict(original=x, quarter=.25*x, rotated=x@Q), dict(gender=labels['gender']), test, seeds=1, attackers=('logistic', 'network')).set_index('view')
    print(t[['attacker', 'auc', 'lo', 'hi', 'chance95']].round(4))
    assert (t.auc-t.auc['original']).abs().max() < .01 and t.auc['original'] > .83

def test_a_model_without_vectors_is_attacked_through_its_scores():
    data = toy().data
    class OnlyScores(MFBPR):
        def forward(self): raise NotImplementedError
        def scores(self, u): return self.x_u[u]@self.x_i.T
    m = OnlyScores(data, rng(0), d=4); s = views(m, data)
    assert list(s) == ['explicit'] and torch.linalg.matrix_rank(s['explicit']) == 4          # all that the scores hold, and no more

def test_one_sentence_for_labels_without_values():
    with pytest.raises(BadInput, match='only one value'): official(dict(explicit=torch.randn(20, 4)), dict(x=torch.zeros(20, dtype=torch.long)), torch.arange(20) < 4)

def test_an_attack_is_kept_by_its_code_and_its_content(tmp_path, monkeypatch):
    "Anything that decides an attack gives it another name: vectors, labels, users, settings, and any helper of any attacker, the classifiers of another module among them."
    g = rng(0)
    x, s = torch.randn(80, 4, generator=g), torch.randint(2, (80,), generator=g)
    test = torch.arange(80)%4 == 0
    how = dict(seeds=1, epochs=3, attackers=('logistic',), folds=0)
    made = kept('attack', leakage, dict(explicit=x), dict(s=s), test, out=tmp_path, **how)
    again = kept('attack', leakage, dict(explicit=x), dict(s=s), test, out=tmp_path, **how)
    pd.testing.assert_frame_equal(made, leakage(dict(explicit=x), dict(s=s), test, **how))
    pd.testing.assert_frame_equal(made, again)
    key = lambda x=x, s=s, test=test, **kw: kept_key(leakage, (dict(explicit=x), dict(s=s), test), how | kw)
    keys = [key(), key(x=x+1e-6), key(s=1-s), key(test=~test), key(seeds=2), key(folds=5)]
    for name in ('_scores', '_aucs', '_doubt', 'axes', '_descend', 'gradients', 'hard_score'):
        with monkeypatch.context() as m:
            old = getattr(attack, name)
            m.setattr(attack, name, lambda *a, **k: old(*a, **k))
            keys.append(key())
    assert len(set(keys)) == len(keys) and key() == keys[0]
    assert set(ATTACKERS) == {'logistic', 'kernel', 'network', 'boosting'}
