"The front door: `from causalmmr import …` takes what is named, and `import causalmmr` alone takes nothing."
import importlib, pkgutil, subprocess, sys
import pytest
import causalmmr

def fresh(code): # what a new interpreter prints
    return subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.split()

def test_importing_the_package_is_cheap():
    code = ("import sys, time; began = time.perf_counter(); import causalmmr; took = time.perf_counter()-began;"
            "print(min(took, 9), *({'torch', 'pandas', 'numpy'} & set(sys.modules)))")
    took,*heavy = min((fresh(code) for _ in range(3)), key=lambda words: float(words[0]))
    assert float(took) < .1 and not heavy

def test_what_is_asked_for_is_taken_and_nothing_else():
    code = "import sys; from causalmmr import BadInput, load; print(BadInput.__module__, load.__module__, *({'causalmmr.cli', 'causalmmr.models.camrec'} & set(sys.modules)))"
    assert fresh(code) == ['causalmmr.data', 'causalmmr.formats']

@pytest.mark.parametrize('name', causalmmr.__all__)
def test_every_name_leads_to_its_module(name):
    home = importlib.import_module(f'causalmmr.{causalmmr.WHERE[name]}')
    assert getattr(causalmmr, name) is getattr(home, name)
    assert name in home.__all__                                   # a public name of that module, not something it imports itself

def test_dir_lists_them_in_a_new_interpreter():
    listed = fresh('import causalmmr; print(*dir(causalmmr))')
    assert {'load', 'fit', 'CaMRec', '__version__', *causalmmr.__all__} <= set(listed)

def test_no_name_is_a_module_too():
    "`causalmmr.compare` would be the module or the function, by what was imported before."
    assert not set(causalmmr.__all__) & {m.name for m in pkgutil.iter_modules(causalmmr.__path__)}

def test_no_name_stands_behind_the_door_twice():
    names = [n for line in causalmmr.DOOR.values() for n in line.split()]
    assert len(names) == len(set(names))

def test_an_unknown_name_is_an_attribute_error_with_a_suggestion():
    with pytest.raises(AttributeError, match="did you mean 'LightGCN'"): causalmmr.LigthGCN
    with pytest.raises(AttributeError, match=r"no attribute 'qqqq'$"): causalmmr.qqqq
    assert not hasattr(causalmmr, 'LigthGCN')
    with pytest.raises(ImportError): exec('from causalmmr import LigthGCN', {})

def test_every_model_of_the_command_line_is_behind_the_door():
    from causalmmr.cli import MODELS
    assert set(MODELS) <= set(causalmmr.__all__)
