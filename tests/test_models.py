"What every model of the package promises, whatever it computes."
import json
from dataclasses import replace
from fnmatch import fnmatch
import pytest, torch
from causalmmr import cli, store
from causalmmr.losses import bpr, l2
from causalmmr.models.classic import Popularity, what_bounds
from causalmmr.models.generative import MMSSL, DiffMM
from causalmmr.models.multimodal import VBPR
from causalmmr.models.selfsup import BM3, CLCRec, MAML, MENTOR, SLMRec
from causalmmr.train import evaluate


def test_popularity_is_run_kept_read_and_recomputed(tmp_path, capsys):
    data = store.dataset('toy')
    row = store.run(Popularity, data, out=tmp_path, progress=False, patience=2)
    assert row['model'] == 'Popularity' and row['epochs'] == 3
    model, _, again = store.load_run(row['folder'])
    assert torch.equal(model.n, torch.bincount(data.train[1], minlength=data.n_items)) and again['test recall@20'] == row['test recall@20']
    assert cli.main(['train', 'Popularity', 'toy', '-p', 'patience=2', '--out', str(tmp_path), '--json']) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown['run'] == row['run']                                      # the same run, read and not repeated
    assert cli.main(['evaluate', row['run'], '--out', str(tmp_path), '--json']) == 0
    assert json.loads(capsys.readouterr().out)['same']


def test_popularity_resumes(tmp_path):
    "An optimiser without a single tensor is saved and loaded too."
    data, ckpt = store.dataset('toy'), tmp_path/'c.safetensors'
    fit = lambda **kw: store.fit(Popularity(data, store.rng(0)), data, ckpt=ckpt, ckpt_seconds=0., progress=False, **kw)
    fit(epochs=2)
    h = fit(epochs=4)
    assert h.attrs['resumed_from'] == 2 and len(h) == 4


WIDTH = sum(f.shape[1] for f in store.dataset('toy').feats.values())
FOUND = dict(mask=(.5,)*WIDTH)                                             # a mask that is given needs no search
SMALL = {'CaMRec': [dict(d=8, L=1), dict(d=8, L=1, released=True), dict(d=8, L=1, theory=True)],
         'NGCF': [dict(L=2)],                                              # a layer squares its input: three overflow at the factor that is asked
         'MacridVAE': [dict(d=16, K=2)], 'DiffMM': [dict(d=16, hidden=32)], 'MMSSL': [dict(d=16, H=2)]}
CLOSED = ('Popularity', 'EASE', 'CEASE')                                   # nothing is trained
ALL = [(name, hp) for name in cli.MODELS for hp in SMALL.get(name, [FOUND if 'InvRL' in name else {}])]

ASIDE = dict(                                                              # tensors that no score depends on, and why
    ADDRL=['W_h', 'b_h', 'tell.*'],                                        # classifiers
    BM3=['maps.*'],                                                        # modalities enter by the loss alone
    MENTOR=['id', 'guide.*', 'predictor.*'],                               # guide what ranks
    CLCRec=['into.*', 'out.*'],                                            # contents rank new items only
    MMSSL=['D.*'],                                                         # the critic
    PaInvRL=['share'],                                                     # read by attention='global' only
    CaMRec=['views.*.scorers.*', 'adjust.channel.denoisers.*.[qk]'])       # gates of a view that does not rank; a softmax before hard codes

@pytest.mark.parametrize('name,hp', ALL, ids=[f'{n} {list(h)}' for n, h in ALL])
def test_every_trained_tensor_has_a_penalty_or_a_norm(name, hp):
    data = store.dataset('toy')
    if name == 'CaMRec': data = replace(data, feats={m: data.feats[m] for m in 'tv'})   # two modalities are enough for it, and faster
    held = what_bounds(cli.find_model(name)(data, store.rng(0), **hp), data, store.rng(1))
    assert [k for k, v in held.items() if v == 'nothing'] == []
    assert held == {} if name in CLOSED else 'penalty' in held.values()
    aside = [k for k, v in held.items() if v == 'aside' and not any(fnmatch(k, known) for known in ASIDE.get(name, ()))]
    assert aside == []


@pytest.mark.parametrize('name', 'EASE CEASE NeuMF NGCF DGCF MacridVAE IPSBPR PDA CausE'.split())
def test_a_run_is_kept_read_and_repeated_to_the_bit(name, tmp_path):
    "What a model holds beside its state, such as EASE's weights, is a function of data and settings."
    data, hp = store.dataset('toy'), dict(epochs=2, batch=512)
    row = store.run(cli.find_model(name), data, seed=3, out=tmp_path/'a', progress=False, **hp)
    again = store.run(cli.find_model(name), data, seed=3, out=tmp_path/'b', progress=False, **hp)
    model, _, read = store.load_run(row['folder'])
    assert row['test recall@20'] == again['test recall@20'] == read['test recall@20']
    assert evaluate(model, data, ks=(20,)).mean()['recall@20'] == pytest.approx(row['test recall@20'], abs=1e-6)


def test_the_old_vbpr_had_two_tensors_that_nothing_held():
    class FreeContent(VBPR):
        def loss(self, u, i, j):
            ids = l2(self.gamma_u[u], self.theta_u[u], self.gamma_i[i], self.gamma_i[j], self.beta[i], self.beta[j])
            return bpr(self.users(u), self.items(i), self.items(j)) + self.reg*ids
    data = store.dataset('toy')
    held = what_bounds(FreeContent(data, store.rng(0)), data, store.rng(1))
    assert {k for k, v in held.items() if v == 'nothing'} == {'E.weight', 'beta_f'}


TINY = [(BM3, dict(d=8)), (SLMRec, dict(d=8, task='FD+FM')), (MENTOR, dict(d=8)), (CLCRec, dict(d=8, n_neg=4)),
         (MAML, dict(d=8, hidden=8, h=8)), (MMSSL, dict(d=8, H=2, k=4)), (DiffMM, dict(d=8, hidden=8))]

@pytest.mark.parametrize('M,hp', TINY, ids=[M.__name__ for M, _ in TINY])
def test_views_and_graphs_survive_an_interruption(M, hp, tmp_path):
    "What is drawn for a batch or made for an epoch comes out of the weights and the generator: a resumed run ends with the same bits."
    data = store.dataset('toy')
    def fitted(*epochs, **kw):
        for n in epochs:
            m = M(data, store.rng(0), **hp)
            h = store.fit(m, data, epochs=n, batch=512, progress=False, **kw)
        return m, h
    (whole, _), (parts, h) = fitted(3), fitted(2, 3, ckpt=tmp_path/'c.safetensors', ckpt_seconds=0.)
    assert h.attrs['resumed_from'] == 2
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), parts.parameters()))
    u = torch.arange(9)
    with torch.no_grad(): assert torch.equal(whole.eval().scores(u), parts.eval().scores(u)) and torch.equal(whole.scores(u), whole.train().eval().scores(u))
