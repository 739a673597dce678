"""--mode=compare groups runs, computes their spread, and refuses bad requests."""

import json
import re

import numpy as np
import pytest
from tests.support.made_runs import DIGITS, made_run
from tests.support.tiny_runs import read_results

from cnn_jax.cli import commands
from cnn_jax.cli.request import Request
from cnn_jax.errors import InputError
from cnn_jax.inspection.pages import compare, record

NASTY = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Makes three seeds of one config, two of another, and an unfinished run."""
    folder = tmp_path_factory.mktemp("compared")
    made = [made_run(folder / f"adam{seed}", {"seed": seed}, accuracy)
            for seed, accuracy in enumerate((0.90, 0.92, 0.97))]
    other = {"optimizer.name": "sgd", "data.channels": 3}
    made += [made_run(folder / f"sgd{seed}", other | {"seed": seed}, 0.80)
             for seed in (0, 1)]
    return made + [made_run(folder / "dead", {"optimizer.name": "muon"}, None, 1)]


def test_runs_that_differ_only_in_the_seed_are_a_group(runs):
    groups = compare.grouped([record.read_record(run) for run in runs])
    assert [(group.letter, [run.name for run in group.runs]) for group in groups] == [
        ("A", ["adam0", "adam1", "adam2"]), ("B", ["sgd0", "sgd1"]), ("C", ["dead"])]
    assert compare.differing(groups) == {"data.channels": [None, 3, None],
                                         "optimizer.name": ["adam", "sgd", "muon"]}
    assert compare.group_names(groups) == [
        "optimizer adam", "optimizer sgd, channels 3", "optimizer muon"]
    assert compare.group_names(groups[:1]) == ["baseline on digits"]
    more = groups[1]._replace(config=groups[1].config | {
        f"augment.{i}": i for i in range(6)})
    assert compare.group_names([groups[0], more]) == [
        "optimizer adam", "optimizer sgd, 0 0, 1 1, 2 2 and 4 more"]
    rate = {"optimizer.learning_rate": 0.1}
    alike = [group._replace(config=groups[1].config | rate | {
        f"augment.{i}": i for i in range(3)} | {"z": z, "y": y})
        for group, z, y in zip(groups * 2, (1, 2, 2, None), (5, 5, None, 5))]
    assert len(set(compare.group_names([*alike, groups[0]]))) == 5
    assert all(name.startswith("optimizer sgd, learning_rate 0.1")
               for name in compare.group_names([*alike, groups[0]])[:4])
    assert compare.short_names(["model.name", "data.limit", "other.limit"]) == [
        "model", "data.limit", "other.limit"]


def test_numbers_have_the_digits_that_tell_them_apart():
    assert compare.texts([0.00031284712938471, 0.1, None, 3, "adam"]) == [
        "0.0003128", "0.1", "-", "3", "adam"]
    assert compare.texts([0.12345678, 0.12345991, 0.12345678]) == [
        "0.123457", "0.12346", "0.123457"]
    close = [0.1, np.nextafter(0.1, 1).item()]
    assert compare.texts(close) == [repr(number) for number in close]


def test_fields_that_change_no_result_do_not_split_a_group(tmp_path, runs):
    again = made_run(tmp_path / "again", {"seed": 7, "log.every_steps": 3,
                                          "inspect.images": 2})
    assert len(compare.grouped([record.read_record(run)
                                for run in (runs[0], again)])) == 1


def test_spread_is_that_of_the_seeds():
    """0.90, 0.92, 0.97: mean 0.93, squares (9 + 1 + 16)e-4, deviation sqrt(13e-4)."""
    assert compare.in_words([0.90, 0.92, 0.97], ".4f") == "0.9300 ± 0.0361"
    assert compare.in_words([0.8], ".4f") == "0.8000"
    assert compare.in_words([61706.0, 61706.0], ",.0f") == "61,706"
    assert compare.in_words([], ".4f") == "-"
    assert [compare.letters(i) for i in (0, 25, 26, 27, 52)] == [
        "A", "Z", "AA", "AB", "BA"]


def test_the_page_of_several_runs(runs, tmp_path, capsys):
    path = tmp_path / "new" / "page.html"
    commands.run(Request("compare", None, None, paths=tuple(map(str, runs)),
                         output=path))
    assert capsys.readouterr().out.strip() == str(path)
    text = path.read_text()
    assert "6 runs in 3 groups" in text
    assert "0.9300 &#177; 0.0361" in text and "0 of 1" in text
    assert re.search(r"means.*: dead\.", text)
    assert text.count("data:image/png;base64,") == 5
    assert 'A ends at 0.7; B ends at 0.7; C ends at 0.1.' in text
    assert "Classes" not in text  # one group was not measured
    assert "different data" not in text  # only the seed's cut differs
    assert not re.search(r'(?:src|href)="(?!data:|#)', text)


def test_classes_side_by_side_where_all_were_measured(runs):
    table = compare.class_table(compare.grouped(
        [record.read_record(run) for run in runs[:5]]))
    assert table.columns == ("class", "group A", "group B")
    assert table.rows[0] == ("0", "1.000", "1.000")
    # Class 9 is found in 0, 2 and 7 of 10 images: F1 0, 4/12 and 14/17.
    values = [0, 4 / 12, 14 / 17]
    assert table.rows[9][1] == (f"{np.mean(values):.3f} ± "
                                f"{np.std(values, ddof=1):.3f}")


def test_different_data_and_machines_are_reported(runs, tmp_path):
    other = made_run(tmp_path / "other", counts={"train": 9, "validation": 50,
                                                 "test": 100}, sha256="other")
    results = read_results(other)
    (other / "results.json").write_text(json.dumps(
        results | dict(machine="a phone")))
    notes = " ".join(compare.warnings([record.read_record(run)
                                      for run in (runs[0], other)]))
    assert "different data" in notes and "different machines" in notes
    assert "versions" not in notes and "devices" not in notes


def test_folders_of_one_name_are_told_apart(tmp_path):
    made = [record.read_record(made_run(tmp_path / folder / "run", {"seed": seed}))
            for seed, folder in enumerate(("first", "second"))]
    table = compare.run_table(compare.grouped(made))
    assert [row[0] for row in table.rows] == [str(run.folder) for run in made]


def test_class_names_are_escaped_in_the_comparison(tmp_path):
    made = [made_run(tmp_path / f"<b>{i}", {"seed": i}, class_names=(
        NASTY, *DIGITS[1:])) for i in (0, 1)]
    compare.write_comparison(made, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "<script" not in text and "<b>" not in text and "&lt;b&gt;0" in text


@pytest.mark.parametrize("names,changes,pattern", [
    ([], {}, " 0"),
    (["adam0"], {}, " 1"),
    (["adam0", "."], {}, "config.json"),
    (["adam0", "nowhere"], {}, "nowhere.*config.json"),
    (["adam0", "adam1/../adam0"], {}, "adam0"),
    (["adam0", "adam1"], {"output": "page.png"}, r"\.html"),
    (["adam0", "adam1"], {"workdir": "adam0"}, "--workdir.*--config")])
def test_bad_comparisons_are_one_line(runs, tmp_path, names, changes, pattern):
    folder = runs[0].parent
    changes = {name: tmp_path / value for name, value in changes.items()}
    request = Request("compare", None, changes.pop("workdir", None), paths=tuple(
        str(folder / name) for name in names), **changes)
    with pytest.raises(InputError, match=pattern) as refused:
        commands.run(request)
    assert "\n" not in str(refused.value)


def test_a_page_that_cannot_be_written_is_one_line(runs, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file"):
        compare.write_comparison(runs[:2], tmp_path / "file" / "page.html")
