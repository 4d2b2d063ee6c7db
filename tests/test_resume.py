"""Killed with SIGKILL in mid-epoch, and run again: the same figures to the last digit as an undisturbed run."""
import json, time
from pathlib import Path
import pandas as pd, pytest
from children import Child
from causalmmr.cli import main
from causalmmr.pages import package_code
from causalmmr.store import rows
from test_reproduce import shelf   # noqa: F401 (a fixture)

TRAIN = ['train', 'LightGCN', 'smoke', '-p', 'd=16', '-p', 'L=2', '-p', 'epochs=12', '-p', 'patience=12', '-p', 'batch=512', '--ckpt-seconds', '0', '--json']

def started(*args): return Child(lambda: main([str(a) for a in args]))

def wait_for(seen, process, seconds=120):
    end = time.monotonic()+seconds
    while not seen():
        assert process.poll() is None, 'it ended before it could be killed'
        assert time.monotonic() < end, 'nothing to kill appeared'
        time.sleep(.002)

@pytest.fixture
def answer(capfd):
    "What a command answers, run in this process (which shares no memory with the killed one)."
    def go(*args):
        code = main([str(a) for a in args])
        out, err = capfd.readouterr()
        assert code == 0, err
        return json.loads(out)
    return go

def test_killed_training_ends_with_the_same_digits(answer, tmp_path):
    whole = answer(*TRAIN, '--out', tmp_path/'whole')
    store = tmp_path/'killed'/'runs'
    p = started(*TRAIN, '--out', tmp_path/'killed')
    ckpt = store/f".{whole['run']}.ckpt.safetensors"
    wait_for(ckpt.exists, p)
    first = ckpt.stat().st_mtime_ns
    wait_for(lambda: ckpt.exists() and ckpt.stat().st_mtime_ns > first, p)        # a second checkpoint: epoch 2 or later is on disk
    assert p.kill()
    assert not (store/whole['run']).exists() and ckpt.exists()                     # nothing that could be taken for a finished run
    left = rows(tmp_path/'killed')
    assert len(left) == 0 and left.attrs['broken'] == []                           # and nothing half-written beside it

    again = answer(*TRAIN, '--out', tmp_path/'killed')
    assert 2 <= again['resumed_from'] < 12 and whole['resumed_from'] == 0          # it went on, it did not start again
    assert {k: v for k,v in again.items() if '@' in k} == {k: v for k,v in whole.items() if '@' in k}
    a, b = (pd.read_parquet(Path(r['folder'])/'history.parquet').drop(columns='seconds') for r in (whole, again))
    pd.testing.assert_frame_equal(a, b, check_exact=True)                          # every epoch's loss and figure, the ones before the kill included
    assert (Path(whole['folder'])/'users.parquet').read_bytes() == (Path(again['folder'])/'users.parquet').read_bytes()
    assert {p.name for p in store.iterdir()} == {whole['run'], '.locks'}           # the checkpoint is gone

SLOW_TABLE = '''
import time, pathlib
from causalmmr import store
from causalmmr.models.classic import MFBPR
rows = []
for seed in range(seeds):
    rows.append(store.run(MFBPR, store.dataset(dataset), seed=seed, out=out_dir, d=8, epochs=2, progress=False))
    if seed == 0 and not pathlib.Path(out_dir, 'go').exists(): pathlib.Path(out_dir, 'waiting').touch(); time.sleep(600)
pathlib.Path(out_dir, 'seconds.txt').write_text(str([r['seconds'] for r in rows]))
'''

def test_killed_reproduction_goes_on(answer, tmp_path, shelf, monkeypatch, request):
    monkeypatch.setenv('CAUSALMMR_TABLES', str(shelf(slow=SLOW_TABLE, quick='x = 1')))
    args = ['reproduce', 'quick', 'slow', '--seeds', '2', '--out', tmp_path/'out', '--json']
    p = started(*args)
    try: wait_for((tmp_path/'out'/'waiting').exists, p)
    finally: p.kill()
    (run,) = (tmp_path/'out'/'runs').glob('[!.]*'); trained = (run/'model.safetensors').stat().st_mtime_ns
    (tmp_path/'out'/'go').touch()
    package_code.cache_clear()                                                     # as a new process would read it
    request.getfixturevalue('no_kernel')                                           # the kernel that was to die has died
    jobs = {j['table']: j['status'] for j in answer(*args)['jobs']}
    assert jobs == dict(quick='kept', slow='done')        # the finished table is kept, the killed one ends
    assert (run/'model.safetensors').stat().st_mtime_ns == trained                 # and its finished run was read, not repeated
    assert len(list((tmp_path/'out'/'runs').glob('[!.]*'))) == 2
