"A search that is killed, shared, or asked for something impossible."
import json, sys, time
import pytest
from children import Child
from causalmmr import cli
from causalmmr.models.classic import MFBPR
from causalmmr.store import dataset
from causalmmr.tune import remembered, tune

WORDS = ['tune', 'MFBPR', 'toy', '--trials', '4', '-p', 'd=8', '-p', 'epochs=24', '-p', 'eval_every=2', '-p', 'batch=256', '--json']
ASK = ('settings', 'value', 'epochs', 'best_epoch', 'ended')                 # of a trial: what does not depend on the machine's speed


def search(out, name='answer'): # a process that searches; what it answers is in out/answer
    pytest.importorskip('optuna')                                            # before it is copied
    out.mkdir(exist_ok=True)
    return Child(lambda: cli.main([*WORDS, '--out', str(out)]), out=out/name, err=out/f'{name}.err')


def answer(out, name='answer'): return json.loads((out/name).read_text())


def told(said): return [{k: t[k] for k in ASK} for t in said['trials']]


def begun(out): # runs that are finished, and trials that are being trained
    folder = out/'runs'
    return len(list(folder.glob('[!.]*'))) if folder.is_dir() else 0


def killed_after(out, runs): # a search is started and killed when so many runs are finished, in the midst of the next
    p, limit = search(out), time.monotonic()+300
    while begun(out) < runs and p.poll() is None and time.monotonic() < limit: time.sleep(.05)
    assert p.kill(after=.1), 'it ended before it could be killed'


def test_killed_twice_it_ends_with_the_study_it_would_have_had(tmp_path, here):
    whole = json.loads(here(*WORDS, '--out', tmp_path/'whole').stdout)
    for runs in (1, 2): killed_after(tmp_path/'killed', runs)
    assert begun(tmp_path/'killed') < 5                                     # it had not come to its end
    assert search(tmp_path/'killed').wait() == 0
    resumed = answer(tmp_path/'killed')
    assert told(resumed) == told(whole) and len(told(whole)) == 4
    assert {k: v for k, v in resumed['line'].items() if k != 'spent'} == {k: v for k, v in whole['line'].items() if k != 'spent'}


def test_two_processes_share_a_study(tmp_path):
    both = [search(tmp_path, f'answer{k}') for k in (0, 1)]
    assert [p.wait() for p in both] == [0, 0]
    for k in (0, 1):
        said = [json.dumps(t['settings'], sort_keys=True) for t in answer(tmp_path, f'answer{k}')['trials']]
        assert 4 <= len(said) <= 5 and len(set(said)) == len(said)          # nothing was tried twice


@pytest.mark.parametrize('words,says', [
    (['tune', 'MFBPR', 'toy', '--minutes', '0'], 'positive number of core-minutes'), (['tune', 'MFBPR', 'toy', '--trials', '0'], 'whole number from 1'),
    (['tune', 'NoModel', 'toy'], 'no model'), (['tune', 'MFBPR', 'nowhere'], 'no data set'), (['tune', 'MFBPR', 'toy', '-p', 'depth=3'], 'no setting')])
def test_one_sentence_and_nothing_written(tmp_path, capsys, words, says):
    assert cli.main([*words, '--out', str(tmp_path/'o')]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and says in said[0] and not (tmp_path/'o').exists()


def test_without_optuna_one_sentence(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, 'optuna', None)
    assert cli.main(['tune', 'MFBPR', 'toy', '--trials', '1', '--out', str(tmp_path)]) == 2
    assert 'causalmmr[tune]' in capsys.readouterr().err


def test_the_line_is_written_where_it_is_asked_for(tmp_path, capsys):
    assert cli.main(['tune', 'MFBPR', 'toy', '--trials', '1', '-p', 'epochs=4', '-p', 'eval_every=2', '--name', 'mine', '--out', str(tmp_path)]) == 0
    assert 'mine on toy: 1 trials' in capsys.readouterr().out
    line = remembered(tmp_path/'settings.json')['mine', 'toy']
    again, _ = tune(MFBPR, dataset('toy'), trials=1, out=tmp_path, progress=False, fixed=dict(epochs=4, eval_every=2), name='mine')
    assert line['chosen'] == again['chosen'] and "--name 'mine'" in line['command']
