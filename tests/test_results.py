import json
import re

import numpy as np
import pytest

from pinn_analysis import results

ARRAYS = {"error": np.linspace(0, 1, 7), "seeds": np.arange(3, dtype=np.int32), "name": np.array(["a", "bc"])}
CONFIG = {"a": 4, "seeds": [0, 1, 2], "rates": {"slow": 1e-3}, "optimizer": "adam"}
MAKE = re.escape("`python book/experiments/run.py` makes it anew")


@pytest.fixture
def folder(tmp_path):
    arrays = {key: value for key, value in ARRAYS.items() if key != "name"}
    results.save("run", CONFIG, seconds=12.34, folder=tmp_path, labels=ARRAYS["name"], **arrays)
    return tmp_path


def test_what_is_loaded_is_what_was_saved(folder):
    arrays, provenance = results.load("run", folder)
    assert set(arrays) == {"error", "seeds", "labels"}
    for key, value in {"error": ARRAYS["error"], "seeds": ARRAYS["seeds"], "labels": ARRAYS["name"]}.items():
        assert arrays[key].dtype == value.dtype
        np.testing.assert_array_equal(arrays[key], value)
    assert provenance["config"] == CONFIG and provenance["seconds"] == 12.3
    assert {"jax", "numpy"} <= set(provenance["versions"]) and provenance["device"] and provenance["commit"]
    assert [path.name for path in folder.iterdir()] == ["run.npz"]
    assert provenance["device"] in results.describe(provenance)


def test_saving_again_replaces_the_file(folder):
    results.save("run", CONFIG, seconds=1, folder=folder, other=np.ones(2))
    assert set(results.load("run", folder)[0]) == {"other"}


@pytest.mark.parametrize("failure", [OSError("No space left on device"), KeyboardInterrupt()], ids=repr)
def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(folder, failure, monkeypatch):
    def fail(file, **arrays):
        file.write(b"half of it")
        raise failure

    before = (folder / "run.npz").read_bytes()
    monkeypatch.setattr(np, "savez_compressed", fail)
    with pytest.raises(type(failure)):
        results.save("run", CONFIG, seconds=1, folder=folder, error=np.zeros(3))
    assert (folder / "run.npz").read_bytes() == before
    assert [path.name for path in folder.iterdir()] == ["run.npz"]


@pytest.mark.parametrize("config", [{"key": object()}, {"array": np.ones(2)}], ids=["object", "array"])
def test_a_configuration_that_json_does_not_take_leaves_the_old_file(folder, config):
    before = (folder / "run.npz").read_bytes()
    with pytest.raises(TypeError, match="JSON"):
        results.save("run", config, seconds=1, folder=folder)
    assert (folder / "run.npz").read_bytes() == before


@pytest.mark.parametrize("name", ["provenance", "file", "allow_pickle"])
def test_names_that_are_taken_are_an_error(name, tmp_path):
    with pytest.raises(ValueError, match=f"`{name}` cannot be stored: the name is taken"):
        results.save("run", CONFIG, seconds=1, folder=tmp_path, **{name: np.ones(2)})


def test_python_objects_are_an_error(tmp_path):
    with pytest.raises(ValueError, match="`ragged` cannot be stored: dtype is object"):
        results.save("run", CONFIG, seconds=1, folder=tmp_path, ragged=np.array([{}, 1], dtype=object))
    assert not list(tmp_path.iterdir())


def test_results_that_are_not_there_name_those_that_are_and_the_script(folder):
    with pytest.raises(FileNotFoundError, match=r"No results 'other'.*\['run'\].*python book/experiments/other.py"):
        results.load("other", folder)


def test_a_file_cut_short_anywhere_is_an_error_that_names_the_script(folder):
    path = folder / "run.npz"
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="truncated.*" + MAKE):
            results.load("run", folder)


def test_a_damaged_file_is_an_error_that_names_the_script_or_has_no_wrong_values(folder):
    path, (arrays, _) = folder / "run.npz", results.load("run", folder)
    whole, caught = path.read_bytes(), 0
    for at in range(0, len(whole), 3):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            loaded = results.load("run", folder)[0]
        except ValueError as error:
            assert re.search(MAKE, str(error))
            caught += 1
        else:  # A date, an attribute, the length of a comment.
            for key in loaded:
                np.testing.assert_array_equal(loaded[key], arrays[key])
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
        results.load("run", tmp_path)


@pytest.mark.parametrize("path", sorted(results.FOLDER.glob("*.npz")), ids=lambda path: path.stem)
def test_every_stored_result_loads_and_has_its_script(path):
    arrays, provenance = results.load(path.stem)
    runs = provenance.get("records", {"": provenance})  # A table has a configuration a record.
    assert arrays and runs and all(run["config"] for run in runs.values()) and results.describe(provenance)
    assert (results.FOLDER.parent / "experiments" / f"{path.stem}.py").exists()
    assert path.stat().st_size < 2**20


def steps(n, **changed):
    return {"model": "M1", "seed": 0, "steps": n} | changed


@pytest.fixture
def table(tmp_path):
    results.add("table", "M1 0", steps(100), seconds=1.0, folder=tmp_path, error=np.arange(3.0))
    results.add("table", "M2 0", steps(100, model="M2"), seconds=2.0, folder=tmp_path, error=np.arange(4.0))
    return tmp_path


def test_a_table_keeps_every_record_with_its_own_provenance(table):
    records = results.records("table", folder=table)
    assert list(records) == ["M1 0", "M2 0"]
    for n, (record, (arrays, how)) in zip((3, 4), records.items(), strict=True):
        np.testing.assert_array_equal(arrays["error"], np.arange(float(n)))
        assert how["config"]["model"] == record[:2] and how["device"] and how["commit"]
    assert results.load("table", table)[1]["seconds"] == 3.0


def test_only_what_is_absent_or_shorter_is_missing(table):
    wanted = {"M1 0": steps(100), "M2 0": steps(200, model="M2"), "M3 0": steps(1, model="M3")}
    assert results.missing("table", wanted, folder=table) == ["M2 0", "M3 0"]


def test_more_steps_replace_fewer_and_never_the_other_way(table):
    results.add("table", "M1 0", steps(200), seconds=1.0, folder=table, error=np.ones(9))
    before = (table / "table.npz").read_bytes()
    for fewer in (200, 50):
        with pytest.raises(ValueError, match=f"'M1 0' is stored in .* at least {fewer} steps; it stays"):
            results.add("table", "M1 0", steps(fewer), seconds=1.0, folder=table, error=np.zeros(9))
    assert (table / "table.npz").read_bytes() == before
    assert results.records("table", folder=table)["M1 0"][0]["error"].tolist() == [1.0] * 9


def test_a_colon_in_the_name_of_a_record_is_an_error(table):
    before = (table / "table.npz").read_bytes()
    with pytest.raises(ValueError, match="cannot have one itself; got 'M1:0'"):
        results.add("table", "M1:0", steps(100), seconds=1.0, folder=table, error=np.ones(2))
    assert (table / "table.npz").read_bytes() == before


def test_other_settings_are_an_error_that_names_them_and_overwrites_nothing(table):
    before = (table / "table.npz").read_bytes()
    with pytest.raises(ValueError, match="'M1 0' is stored in .* with another batch, seed.*same settings, or move"):
        results.missing("table", {"M1 0": steps(200, seed=1, batch=3)}, folder=table)
    assert (table / "table.npz").read_bytes() == before


def test_one_result_is_no_table(folder):
    with pytest.raises(ValueError, match="holds one result, not a table"):
        results.add("run", "M1 0", steps(1), seconds=1.0, folder=folder)
