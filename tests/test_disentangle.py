"""Stage 1 at the width of real features, and the guarantee of erasure on real users."""
import torch
from causalmmr.causal.scm import toy
from causalmmr.formats import load
from causalmmr.disentangle import adversarial, class_counts, erase, one_hot, sensitive
from causalmmr.fair.attack import attacker_users, strict
from causalmmr.graph import row_mean
from causalmmr.train import rng

def test_released_labels_leave_only_binary_attributes_filtered():
    "With random labels the filtered branch of age does not depend on the true ages at all."
    data = toy().data; R = row_mean(data.train, (data.n_users, data.n_items))
    labels = {k: s for k,s in sensitive(data).items() if k != 'occupation'}
    turned = labels | dict(age=(labels['age']+1) % 7)
    go = lambda labels, **kw: adversarial(data.feats['t'], R, labels, rng(0), epochs=3, batch=256, lr=.01, l_b=0., repel=0., **kw).filtered
    assert torch.equal(go(labels, random_labels=True), go(turned, random_labels=True))
    assert not torch.equal(go(labels), go(turned))

def test_erasure_on_real_users(real_data):
    "On MovieLens every class mean coincides after erasing, and a strict linear attacker is left with little on users it was not told about."
    data = load('ml1m', data_dir=real_data); R = row_mean(data.train, (data.n_users, data.n_items)); test = attacker_users(data)
    labels, known = sensitive(data), sensitive(data, known=~test)
    assert class_counts(labels) == [2, 7, 21]
    x = data.feats['a']; z, _ = one_hot(labels); s = erase(x, R, labels)
    u = (R@s.filtered).double(); u = u-u.mean(0); z = (z-z.mean(0)).double()
    assert ((u.T@z)/len(u)).abs().max() < 1e-5*u.std()
    seen = dict(original=R@x, biased=R@erase(x, R, known).biased, filtered=R@erase(x, R, known).filtered)
    auc = strict(seen, dict(gender=labels['gender']), test, seeds=1, attackers=('logistic',)).set_index('view').auc
    print(auc.round(3))
    assert auc['filtered'] < auc['original']-.1 and auc['biased'] > auc['filtered']
