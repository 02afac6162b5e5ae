import json
import re
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest

from pinn_analysis import _provenance, results

ARRAYS = {"error": np.linspace(0, 1, 7), "loss/seeds": np.arange(3, dtype=np.int32), "name": np.array(["a", "bc"])}
CONFIG = {"a": 4, "seeds": [0, 1, 2], "rates": {"slow": 1e-3}, "optimizer": "adam"}
MAKE = re.escape("`python book/experiments/run.py` makes it anew")


def never(config):
    raise AssertionError("This record is there already.")


@pytest.fixture
def folder(tmp_path):
    assert results.fill("run", {"first": CONFIG}, lambda config: ARRAYS, folder=tmp_path) == ["first"]
    return tmp_path


def files(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_what_is_read_is_what_was_made(folder):
    arrays, provenance = results.records("run", folder=folder)["first"]
    assert set(arrays) == set(ARRAYS)
    for key, value in ARRAYS.items():
        assert arrays[key].dtype == value.dtype
        np.testing.assert_array_equal(arrays[key], value)
    assert provenance["config"] == CONFIG and 0 <= provenance["seconds"] < 5 and provenance["precision"] == "float64"
    assert {"python", "jax", "jaxlib", "numpy", "pinn-analysis"} <= set(provenance["versions"])
    assert provenance["device"] in results.describe(provenance) and provenance["commit"]
    assert files(folder) == ["run.npz"]


def test_settings_reach_the_function_as_they_are_stored(tmp_path):
    seen = []
    config = {"sizes": (2, 3), "rates": {1: 0.5}}
    results.fill("run", {"first": config}, lambda config: seen.append(config) or {}, folder=tmp_path)
    assert seen == [{"sizes": [2, 3], "rates": {"1": 0.5}}]
    assert results.missing("run", {"first": config}, folder=tmp_path) == []


def test_neural_tangents_is_on_record_where_the_function_uses_it(tmp_path):
    code = (
        "import sys, pathlib\nfrom pinn_analysis import _neural_tangents, results\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "results.fill('run', {'without': {}}, lambda config: {}, folder=folder)\n"
        "results.fill('run', {'with': {}}, lambda config: {'x': bool(_neural_tangents.load())}, folder=folder)\n"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True, capture_output=True)
    table = results.records("run", folder=tmp_path)
    assert "neural-tangents" not in table["without"].provenance["versions"]
    assert table["with"].provenance["versions"]["neural-tangents"] == "0.6.5"
    assert table["with"].provenance["precision"] == "float32"


@pytest.mark.parametrize("failure", [OSError("No space left on device"), KeyboardInterrupt()], ids=repr)
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(folder, failure, monkeypatch):
    def fail(file, **arrays):
        file.write(b"half of it")
        raise failure

    before = (folder / "run.npz").read_bytes()
    monkeypatch.setattr(np, "savez_compressed", fail)
    with pytest.raises(type(failure)):
        results.fill("run", {"second": CONFIG}, lambda config: {"error": np.zeros(3)}, folder=folder)
    assert (folder / "run.npz").read_bytes() == before
    assert files(folder) == ["run.npz"]


@pytest.mark.parametrize(
    "config", [{"key": object()}, {"array": np.ones(2)}, {"rate": np.nan}], ids=["object", "array", "nan"]
)
def test_a_configuration_that_json_does_not_take_is_an_error_before_anything_runs(folder, config):
    before = (folder / "run.npz").read_bytes()
    with pytest.raises((TypeError, ValueError), match="JSON"):
        results.fill("run", {"other": CONFIG, "second": config}, never, folder=folder)
    assert (folder / "run.npz").read_bytes() == before


def test_python_objects_are_an_error(tmp_path):
    make = lambda config: {"ragged": np.array([{}, 1], dtype=object)}
    with pytest.raises(ValueError, match="`first:ragged` cannot be stored: dtype is object"):
        results.fill("run", {"first": CONFIG}, make, folder=tmp_path)
    assert files(tmp_path) == []


def test_outside_a_checkout_the_error_says_so_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "FOLDER", tmp_path / "lib" / "python3.11" / "book" / "results")
    for call in (lambda: results.fill("run", {"first": CONFIG}, never), lambda: results.records("run")):
        with pytest.raises(ValueError, match=r"no folder .*book/results.*outside one.*--editable.*folder="):
            call()
    assert not (tmp_path / "lib").exists()


def test_a_copy_installed_below_another_checkout_does_not_take_its_commit(tmp_path, monkeypatch):
    git = lambda *arguments: subprocess.run(["git", *arguments], cwd=tmp_path, check=True, capture_output=True)
    git("init")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "--allow-empty", "-m", "first")
    copy = tmp_path / "_provenance.py"
    copy.write_text("")
    monkeypatch.setattr(_provenance, "ROOT", tmp_path)
    monkeypatch.setattr(_provenance, "__file__", str(copy))
    assert _provenance.commit() == "unknown"
    git("add", "_provenance.py")
    assert re.fullmatch("[0-9a-f]{40}", _provenance.commit())
    (tmp_path / "pinn_analysis").mkdir()
    (tmp_path / "pinn_analysis" / "new.py").write_text("")
    assert _provenance.commit().endswith("-dirty")


def test_results_that_are_not_there_name_those_that_are_and_the_script(folder):
    with pytest.raises(FileNotFoundError, match=r"No results 'other'.*\['run'\].*python book/experiments/other.py"):
        results.records("other", folder=folder)


def test_a_file_cut_short_anywhere_is_an_error_that_names_the_script(folder):
    path = folder / "run.npz"
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="truncated.*" + MAKE):
            results.records("run", folder=folder)


def test_a_damaged_file_is_an_error_that_names_the_script_or_has_no_wrong_values(folder):
    path, (arrays, _) = folder / "run.npz", results.records("run", folder=folder)["first"]
    whole, caught = path.read_bytes(), 0
    for at in range(0, len(whole), 3):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            table = results.records("run", folder=folder)
        except ValueError as error:
            assert re.search(MAKE, str(error))
            caught += 1
        else:  # A date, an attribute, the length of a comment.
            for key, value in table["first"].arrays.items():
                np.testing.assert_array_equal(value, arrays[key])
    assert caught > len(whole) / 6  # Half of the bytes tried.


def other_format(file):
    np.savez(file, provenance=np.array(json.dumps({"format": 0})), error=np.ones(2))


FOREIGN = {
    "no provenance": lambda file: np.savez(file, error=np.ones(2)),
    "another provenance": lambda file: np.savez(file, provenance=np.array("[1, 2]")),
    "provenance without format": lambda file: np.savez(file, provenance=np.array("{}")),
    "a number as provenance": lambda file: np.savez(file, provenance=np.array(3.0)),
    "a bare array": lambda file: np.save(file, np.ones(2)),
    "a pickle": lambda file: np.savez(file, provenance=np.array([{}], dtype=object)),
    "text": lambda file: file.write(b"a,b\n1,2\n"),
    "nothing": lambda file: None,
    "another format": other_format,
}


@pytest.mark.parametrize("write", FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_file_is_an_error_that_names_the_script(write, tmp_path):
    with (tmp_path / "run.npz").open("wb") as file:
        write(file)
    with pytest.raises(ValueError, match=MAKE):
        results.records("run", folder=tmp_path)


@pytest.mark.parametrize("path", sorted(results.FOLDER.glob("*.npz")), ids=lambda path: path.stem)
def test_every_stored_result_loads_and_has_its_script(path):
    table = results.records(path.stem)
    assert table and all(arrays and how["config"] for arrays, how in table.values()) and results.describe(table)
    assert (results.FOLDER.parent / "experiments" / f"{path.stem}.py").exists()
    assert path.stat().st_size < 2**20


def steps(n, **changed):
    return {"model": "M1", "seed": 0, "steps": n} | changed


def counted(config):
    return {"error": np.arange(float(config["steps"]))}


TABLE = {"M1 0": steps(3), "M2 0": steps(4, model="M2")}


@pytest.fixture
def table(tmp_path):
    results.fill("table", TABLE, counted, folder=tmp_path)
    return tmp_path


def test_a_table_keeps_every_record_with_its_own_provenance(table):
    records = results.records("table", folder=table)
    assert list(records) == ["M1 0", "M2 0"]
    for n, (record, (arrays, how)) in zip((3, 4), records.items(), strict=True):
        np.testing.assert_array_equal(arrays["error"], np.arange(float(n)))
        assert how["config"]["model"] == record[:2] and how["device"] and how["commit"]


def test_a_description_of_a_table_adds_up_the_time_and_names_what_differs(table):
    records = results.records("table", folder=table)
    for i, record in enumerate(records.values()):
        record.provenance.update(seconds=60.0 * (i + 1), device=f"GPU {i}", commit="0123456789"[i:] + "-dirty" * i)
    assert re.fullmatch(
        r"GPU 0 and GPU 1, 3\.0 min, jax [\d.]+, commits 012345678, 123456789 with changes", results.describe(records)
    )


def test_only_what_is_absent_or_shorter_is_made(table):
    wanted = {"M1 0": steps(3), "M2 0": steps(5, model="M2"), "M3 0": steps(1, model="M3")}
    assert results.missing("table", wanted, folder=table) == ["M2 0", "M3 0"]
    assert results.fill("table", wanted, counted, folder=table) == ["M2 0", "M3 0"]
    assert results.fill("table", wanted, never, folder=table) == []
    assert [len(arrays["error"]) for arrays, _ in results.records("table", folder=table).values()] == [3, 5, 1]


def test_a_shorter_run_never_replaces_a_longer_one(table):
    before = (table / "table.npz").read_bytes()
    assert results.fill("table", {"M1 0": steps(2)}, never, folder=table) == []
    assert (table / "table.npz").read_bytes() == before


def test_settings_need_no_steps(tmp_path):
    for made in (["64"], []):
        assert results.fill("table", {"64": {"width": 64}}, lambda config: {"k": 1.0}, folder=tmp_path) == made


def test_a_colon_in_the_name_of_a_record_is_an_error(table):
    with pytest.raises(ValueError, match="cannot have one itself; got 'M1:0'"):
        results.fill("table", {"M4": steps(1), "M1:0": steps(100)}, never, folder=table)


def test_other_settings_are_an_error_that_names_them_and_overwrites_nothing(table):
    before = (table / "table.npz").read_bytes()
    with pytest.raises(ValueError, match="'M1 0' is stored in .* with another batch, seed.*same settings, or move"):
        results.fill("table", {"M4": steps(1), "M1 0": steps(200, seed=1, batch=3)}, never, folder=table)
    assert (table / "table.npz").read_bytes() == before


def test_another_precision_is_another_setting(table):
    with jax.enable_x64(False), pytest.raises(ValueError, match="'M1 0' is stored in .* with another precision"):
        results.fill("table", TABLE, never, folder=table)


def test_a_run_that_is_killed_loses_the_record_in_progress_and_no_other(tmp_path):
    code = (
        "import os, pathlib, signal, sys\nfrom pinn_analysis import results\n"
        "def make(config):\n    if config['seed'] == 2:\n        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return config\n"
        "results.fill('table', {str(i): {'seed': i} for i in range(4)}, make, folder=pathlib.Path(sys.argv[1]))\n"
    )
    assert subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True).returncode == -9
    assert list(results.records("table", folder=tmp_path)) == ["0", "1"]
    configs = {str(i): {"seed": i} for i in range(4)}
    with jax.enable_x64(False):
        assert results.fill("table", configs, dict, folder=tmp_path) == ["2", "3"]


def test_a_record_that_fails_leaves_those_before_it(tmp_path):
    with pytest.raises(ZeroDivisionError):
        results.fill("table", {"a": {"n": 1}, "b": {"n": 0}}, lambda config: {"x": 1 / config["n"]}, folder=tmp_path)
    assert list(results.records("table", folder=tmp_path)) == ["a"]


def fill_some(folder, writer):
    configs = {f"{writer} {i}": {"writer": writer, "i": i} for i in range(12)} | {"shared": {}}
    results.fill("table", configs, lambda config: {"x": np.zeros(5000)}, folder=folder)


def test_several_writers_of_one_table_lose_nothing(tmp_path):
    writers = [threading.Thread(target=fill_some, args=(tmp_path, writer)) for writer in "abc"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(results.records("table", folder=tmp_path)) == 3 * 12 + 1
    assert files(tmp_path) == ["table.npz"]


@pytest.fixture
def cells(tmp_path):
    configs = {f"{w} {s}": {"width": w, "seed": s, "kind": "run"} for w in (4, 8) for s in range(2)}
    make = lambda config: {"error": np.array([config["width"], config["seed"]], np.float32)}
    results.fill("cells", configs | {"other": {"width": 4, "seed": 0, "kind": "start"}}, make, folder=tmp_path)
    return results.records("cells", folder=tmp_path)


def test_stack_lays_records_along_the_settings_by_which_they_differ(cells):
    errors = results.stack(cells, "error", seed=range(2), width=(8, 4), kind="run")
    assert errors.dtype == np.float32 and errors.shape == (2, 2, 2)
    for seed in range(2):
        for i, width in enumerate((8, 4)):
            assert errors[seed, i].tolist() == [width, seed]
    assert results.values(cells, "width") == [4, 8]


def test_stack_has_nan_where_there_is_no_record(cells):
    errors = results.stack(cells, "error", width=np.array([4, 8, 16]), seed=0, kind="run")
    assert errors[:2].tolist() == [[4, 0], [8, 0]] and np.isnan(errors[2]).all()


def test_stack_refuses_what_it_cannot_lay_out(cells):
    with pytest.raises(ValueError, match="'4 0' and 'other' have the same width, seed: select one"):
        results.stack(cells, "error", width=(4, 8), seed=range(2))
    with pytest.raises(ValueError, match="No record has 'errors'"):
        results.stack(cells, "errors", width=(4, 8))
    cells["8 1"].arrays["error"] = np.zeros(3)
    with pytest.raises(ValueError, match="several shapes"):
        results.stack(cells, "error", width=(4, 8), seed=1, kind="run")
