"""Whatever is wrong with an input: exit code 2, one sentence on stderr, no traceback, nothing half-written."""
import json, os, pickle, shutil
from pathlib import Path
import numpy as np, pandas as pd, pytest
from causalmmr import cli as program, store

SMALL = ['-p', 'd=8', '-p', 'epochs=2']

def one_sentence(code, out, err):
    assert code == 2, (code, err)
    assert out == '' and err.startswith('causalmmr: ') and err.endswith('.\n') and err.count('\n') == 1, err
    assert 'Traceback' not in err

@pytest.fixture
def refused(capfd, tmp_path):
    "Run a command in this process; it must be refused, and leave its folder as it was."
    def go(*args, says='', out=None):
        before = sorted(map(str, tmp_path.rglob('*')))
        code = program.main([str(a) for a in args])
        o, e = capfd.readouterr()
        one_sentence(code, o, e)
        assert says in e, e
        left = set(map(str, tmp_path.rglob('*'))) - set(before)
        kept = [p for p in left if not p.endswith(('/out', '/out/runs')) and '/runs/.locks' not in p]
        assert not kept, left                                     # an empty store with its lock may have been made, nothing else
    return go

@pytest.fixture
def shop(tmp_path):
    "A small data set in a folder, ready to be broken."
    d = tmp_path/'shop'; d.mkdir()
    r = np.random.default_rng(0)
    pairs = np.unique(r.integers(0, [30, 20], (240, 2)), axis=0)
    pd.DataFrame(dict(userID=pairs[:,0], itemID=pairs[:,1], x_label=r.choice([0,0,0,1,2], len(pairs)))).to_parquet(d/'inter.parquet')
    np.savez(d/'image_feat.npz', x=r.standard_normal((20, 4)).astype('float32'))
    (d/'about.json').write_text(json.dumps(dict(features=dict(v='image_feat'))))
    return d

def change(d, **columns):
    t = pd.read_parquet(d/'inter.parquet').assign(**columns); t.to_parquet(d/'inter.parquet')

@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    "A finished run on the toy."
    return store.run(program.find_model('MFBPR'), store.dataset('toy'), out=tmp_path_factory.mktemp('runs'), d=8, epochs=2, progress=False)

@pytest.fixture
def a_run(trained, tmp_path): return Path(shutil.copytree(trained['folder'], tmp_path/'run'))

def test_the_small_shop_is_fine(shop, tmp_path, capfd):
    assert program.main(['train', 'VBPR', str(shop), *SMALL, '--out', str(tmp_path/'out'), '--json']) == 0
    assert json.loads(capfd.readouterr().out)['epochs'] == 2

# --- data

def test_missing_folder(refused, tmp_path): refused('train', 'MFBPR', tmp_path/'nowhere', says='nowhere')
def test_unknown_data_set(refused): refused('train', 'MFBPR', 'bayb', says='bayb')
def test_missing_data_dir(refused, tmp_path): refused('train', 'MFBPR', 'baby', '--data', tmp_path/'no', says='baby')
def test_empty_folder(refused, tmp_path): refused('data', 'check', tmp_path, says='format')
def test_missing_file(refused, shop): (shop/'inter.parquet').unlink(); refused('train', 'MFBPR', shop)
def test_truncated_parquet(refused, shop):
    p = shop/'inter.parquet'; p.write_bytes(p.read_bytes()[:-100]); refused('train', 'MFBPR', shop, says='inter.parquet')
def test_wrong_column(refused, shop):
    p = shop/'inter.parquet'; pd.read_parquet(p).rename(columns=dict(itemID='product')).to_parquet(p)
    refused('train', 'MFBPR', shop, says='itemID')
def test_text_as_id(refused, shop):
    change(shop, userID=lambda t: t.userID.astype(str).where(t.index>3, 'anna')); refused('train', 'MFBPR', shop, says='anna')
def test_negative_id(refused, shop): change(shop, itemID=lambda t: t.itemID-1); refused('train', 'MFBPR', shop, '--out', shop.parent/'out', says='range')
def test_id_out_of_range(refused, shop):
    change(shop, itemID=lambda t: t.itemID.where(t.index>0, 10**9)); refused('train', 'MFBPR', shop, says='1000000000')
def test_unknown_label(refused, shop): change(shop, x_label=7); refused('train', 'MFBPR', shop, says='x_label')
def test_empty_split(refused, shop):
    change(shop, x_label=lambda t: t.x_label.replace(2, 1)); refused('train', 'MFBPR', shop, '--out', shop.parent/'out', says='test')
@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_feature_that_is_no_number(refused, shop, bad):
    x = np.load(shop/'image_feat.npz')['x']; x[3,1] = bad; np.savez(shop/'image_feat.npz', x=x)
    refused('train', 'VBPR', shop, *SMALL, '--out', shop.parent/'out', says='NaN or infinite')
def test_feature_of_the_wrong_length(refused, shop):
    np.savez(shop/'image_feat.npz', x=np.zeros((7, 4), 'float32')); refused('train', 'VBPR', shop, *SMALL, '--out', shop.parent/'out')
def test_model_without_its_features(refused, shop):
    (shop/'about.json').unlink(); refused('train', 'VBPR', shop, *SMALL, '--out', shop.parent/'out', says='feature')
def test_features_that_are_named_and_not_there(refused, shop):
    (shop/'image_feat.npz').unlink(); refused('train', 'MFBPR', shop, *SMALL, '--out', shop.parent/'out', says='no array image_feat')
@pytest.mark.parametrize('asked,says', [('v=poster', 'no array poster; it has image_feat'), ('poster', 'takes modality=file'), ('=x', 'takes modality=file'), ('a=', 'no modality a'),
                                        ('v=../shop/image_feat', 'no array'), ('v=/etc/passwd', 'no array'), ('v.w=image_feat', 'takes modality=file')])
def test_features_asked_for_wrongly(refused, shop, asked, says): refused('train', 'VBPR', shop, *SMALL, '--features', asked, '--out', shop.parent/'out', says=says)
def test_features_asked_for_twice(refused, shop): refused('data', 'check', shop, '--features', 'v=image_feat', '--features', 'v=image_feat', says='v twice')
def test_features_of_a_simulated_shop(refused): refused('train', 'VBPR', 'toy', '--features', 'v=image_feat', says='simulated')
def test_two_columns_of_one_name(refused, shop):
    pd.DataFrame(dict(userID=range(30), gender=0, u_gender=1)).to_parquet(shop/'users.parquet'); refused('data', 'check', shop, says='two columns gender')
@pytest.mark.parametrize('about', ['{', '[]', '{"n_items": -1}', '{"n_users": 1e3}', '{"n_users": 1000000000000}', '{"features": "image_feat"}', '{"name": "a\u001b[2J"}'])
def test_about(refused, shop, about): (shop/'about.json').write_text(about); refused('data', 'check', shop)

class Attack:
    def __init__(self, path): self.path = path
    def __reduce__(self): return (os.mkdir, (str(self.path),))

@pytest.mark.parametrize('kind', ['npy', 'npz'])
def test_pickle_with_code_in_it(refused, shop, tmp_path, kind):
    (shop/'image_feat.npz').unlink()
    x = np.empty(20, object); x[:] = [Attack(tmp_path/'evil')]*20
    (np.save if kind == 'npy' else np.savez)(shop/f'image_feat.{kind}', **(dict(arr=x) if kind == 'npy' else dict(x=x)))
    refused('train', 'VBPR', shop, *SMALL, '--out', tmp_path/'out')
    assert not (tmp_path/'evil').exists()                                   # the code in it was not run

# --- settings

@pytest.mark.parametrize('word', ['d', '=3', '9=1', 'd=1=', 'd=abc', 'd=-4', 'd=0', 'd=8.5', 'd=True', 'd=', 'epochs=0', 'lr=0', 'lr=inf', 'reg=-1', 'reg=None',
                                  'depth=2', 'seed=1', 'by=test', 'by=luck@20', 'by=recall@0', 'eval_every=9999'])
def test_setting(refused, word, tmp_path): refused('train', 'LightGCN', 'toy', '-p', word, '--out', tmp_path/'out')
def test_setting_given_twice(refused): refused('train', 'LightGCN', 'toy', '-p', 'd=1', '-p', 'd=2', says='twice')
def test_unknown_setting_names_the_known_ones(refused): refused('train', 'LightGCN', 'toy', '-p', 'depth=2', says='d, L, reg')
def test_settings_are_checked_before_the_data(refused): refused('train', 'LightGCN', 'nowhere', '-p', 'depth=2', says='depth')

# --- names and words

@pytest.mark.parametrize('name', ['LightGNC', 'nowhere:Model', 'os:getcwd', 'torch.nn:Linear', 'causalmmr.models.classic:Nothing', ':', 'x:'])
def test_unknown_model(refused, name): refused('train', name, 'toy')
@pytest.mark.parametrize('words', [['fly'], ['train'], ['train', 'MFBPR'], ['train', 'MFBPR', 'toy', '--seed', 'x'], ['train', 'MFBPR', 'toy', '--wings'], ['data'],
                                   ['data', 'fly'], ['recommend', 'r'], ['train', 'MFBPR', 'toy', '--seed', '-1'], ['train', 'MFBPR', 'toy', '--device', 'cuda:99'],
                                   ['reproduce'], ['reproduce', 'classic', '--all'], ['reproduce', 'nowhere'], ['reproduce', 'classic', '--scale', 'galaxy'],
                                   ['reproduce', 'classic', '--seeds', '0'], ['reproduce', 'classic', '--workers', '0'], ['reproduce', 'classic', '--engine', 'steam'],
                                   ['reproduce', 'classic', '--models', 'LightGNC'], ['reproduce', 'classic', '--models', 'AD-DRL']])
def test_words(refused, words): refused(*words)
def test_rows_of_a_table(refused): # a table that names its rows is asked by its names, before anything runs
    refused('reproduce', 'addrl_overall', '--models', 'MFBPR,AD-DLR', says="no row 'AD-DLR'")
    refused('reproduce', 'addrl_overall', 'camrec_overall', '--models', 'AD-DRL', says="no row 'AD-DRL'")
def test_no_tables(refused, monkeypatch, tmp_path):
    monkeypatch.setattr(program.pages, 'tables_dir', lambda: (_ for _ in ()).throw(store.BadInput('There are no table notebooks here.')))
    refused('reproduce', '--all', says='table')

# --- runs

def test_folder_without_run_json(refused, a_run): (a_run/'run.json').unlink(); refused('evaluate', a_run, says='finished run')
def test_run_json_that_is_not_json(refused, a_run): (a_run/'run.json').write_text('{'); refused('evaluate', a_run, says='JSON')
def test_run_json_without_its_keys(refused, a_run): (a_run/'run.json').write_text('{}'); refused('evaluate', a_run)
@pytest.mark.parametrize('value', [True, False])
def test_a_truth_value_is_no_seed(refused, a_run, value):
    info = {k: v for k, v in json.loads((a_run/'run.json').read_text()).items() if k not in ('check', 'files')}
    (a_run/'run.json').write_text(json.dumps(info | dict(seed=value)))
    refused('evaluate', a_run, says=f'seed is {value}')
def test_truncated_weights(refused, a_run):
    p = a_run/'model.safetensors'; p.write_bytes(p.read_bytes()[:60]); refused('evaluate', a_run, says='model.safetensors')
def test_pickled_weights(refused, a_run, tmp_path):
    (a_run/'model.safetensors').write_bytes(pickle.dumps(Attack(tmp_path/'evil'))); refused('recommend', a_run, '--user', 1)
    assert not (tmp_path/'evil').exists()
def test_unknown_run(refused, tmp_path): refused('evaluate', 'abcdef', '--out', tmp_path, says='abcdef')
@pytest.mark.parametrize('user', [-1, 200, 10**12])
def test_user_out_of_range(refused, a_run, user): refused('recommend', a_run, '--user', user, says='0 to 199')
def test_no_items_wanted(refused, a_run): refused('recommend', a_run, '--user', 1, '-k', 0)
def test_unknown_attribute(refused, a_run): refused('audit', a_run, '--attribute', 'star_sign', says='gender')
def test_data_without_users(refused, shop, tmp_path, capfd):
    assert program.main(['train', 'MFBPR', str(shop), *SMALL, '--out', str(tmp_path/'out'), '--json']) == 0
    folder = json.loads(capfd.readouterr().out)['folder']
    refused('audit', folder, '--attribute', 'gender', '--dataset', shop, says='no user attributes')
    refused('evaluate', folder, says='shop')                                  # its data are not registered: where are they?
    refused('evaluate', folder, '--dataset', 'toy', says='version')           # and other data are not accepted for them

@pytest.mark.parametrize('column,words,says', [
    ([20+k for k in range(30)], [], '30 groups of fewer than 10 users by age'),                    # an age in years: nobody shares it
    ([['a']]*30, [], 'age holds lists'), ([None]*30, [], 'missing for'), ([1]*30, [], 'everybody has the same'), (['']*29+['x'], [], 'x (1)'),
    ([0]*14+[1]*14+[2]*2, ['--small', 'refuse'], '1 groups of fewer than 10 users by age: 2 (2)'), ([0, 1]*15, ['--small', 'drop'], "'drop'"),
    ([0, 1]*15, ['--smallest', 1], 'at least 2'), ([0, 1]*15, ['--smallest', 99], 'not two groups')])
def test_attribute_without_groups(refused, shop, tmp_path, capfd, column, words, says):
    pd.DataFrame(dict(userID=range(30), age=column)).to_parquet(shop/'users.parquet')
    assert program.main(['train', 'MFBPR', str(shop), *SMALL, '--out', str(tmp_path/'out'), '--json']) == 0
    folder = json.loads(capfd.readouterr().out)['folder']
    refused('audit', folder, '--attribute', 'age', '--dataset', shop, *words, says=says)
    assert program.main(['data', 'check', str(shop), '--json']) == 0                              # and is told beforehand
    told = json.loads(capfd.readouterr().out)['attributes'][0]
    assert told['groups'] != 30 or told['small'] == 30

# --- the disk

def test_out_is_a_file(refused, tmp_path): (tmp_path/'out').write_text(''); refused('train', 'MFBPR', 'toy', *SMALL, '--out', tmp_path/'out')
@pytest.mark.skipif(os.geteuid() == 0, reason='root may write everywhere')
def test_out_is_read_only(refused, tmp_path): (tmp_path/'ro').mkdir(mode=0o500); refused('train', 'MFBPR', 'toy', *SMALL, '--out', tmp_path/'ro'/'out')
def test_out_cannot_be_made(refused): refused('train', 'MFBPR', 'toy', *SMALL, '--out', '/proc/nowhere')
def test_reproduce_out_cannot_be_made(refused): refused('reproduce', 'classic', '--out', '/proc/nowhere')

def test_disk_full(tmp_path, monkeypatch, capfd):
    def full(*a, **k): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(pd.DataFrame, 'to_parquet', full)
    code = program.main(['train', 'MFBPR', 'toy', *SMALL, '--out', str(tmp_path/'out')])
    out, err = capfd.readouterr()
    one_sentence(code, out, err.splitlines(keepends=True)[-1])
    assert 'No space left' in err and 'Traceback' not in err
    assert not [p for p in (tmp_path/'out'/'runs').iterdir() if p.is_dir() and p.name != '.locks']

def test_interrupt(monkeypatch, capfd):
    def stop(*a, **k): raise KeyboardInterrupt
    monkeypatch.setattr(program, 'run', stop)
    assert program.main(['train', 'MFBPR', 'toy']) == 130 and 'Traceback' not in capfd.readouterr().err

# --- the same from a real shell

def test_as_a_process(cli, tmp_path):
    p = cli('train', 'LightGCN', 'toy', '-p', 'depth=2', '--json', cwd=tmp_path)
    one_sentence(p.returncode, p.stdout, p.stderr)
    assert not list(tmp_path.iterdir())
