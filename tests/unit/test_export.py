"""Every format read back, what is refused before anything is written, and that nothing half-written stays."""

import base64
import csv
import hashlib
import json
import math
import sys
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path

import numpy as np
import openpyxl
import pandas as pd
import pytest

from pandas_llm._version import VERSION
from pandas_llm.core.errors import OptionsError
from pandas_llm.core.types import SOURCES
from pandas_llm.export import export

TABLES = (".csv", ".parquet", ".jsonl", ".xlsx")
BODIES = ["It crashes.\r\n\tAlways, it says “no”", "=1+1", 'He said "hi", 你好 😀']


@pytest.fixture
def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "body": BODIES,
            "body_label": pd.Categorical(["bug", None, "praise"], categories=["bug", "question", "praise"]),
            "body_label_error": [None, "RefusalError: no", None],
            "body_label_source": pd.Categorical(["api", "failed", "duplicate"], categories=SOURCES),
            "body_label_input_tokens": pd.array([10, 12, 0], dtype="Int64"),
            "body_label_cost": [1e-6, math.nan, 0.0],
        }
    )


def read(path: Path) -> pd.DataFrame:
    match path.suffix:
        case ".csv":
            return pd.read_csv(path)
        case ".parquet":
            return pd.read_parquet(path)
        case ".jsonl":
            return pd.DataFrame([json.loads(line) for line in path.read_text("utf-8").split("\n")[:-1]])
        case _:
            return pd.read_excel(path)


def plain(frame: pd.DataFrame) -> list[list[object]]:
    """The cells with one spelling for missing."""
    return [
        [None if pd.isna(cell) else cell for cell in row] for row in frame.astype(object).to_numpy().tolist()
    ]


def notes_of(path: Path) -> dict:
    return json.loads(path.with_name(path.name + ".provenance.json").read_text("utf-8"))


def names_in(folder: Path) -> list[str]:
    return sorted(item.name for item in folder.iterdir())


# --- Each format --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", TABLES)
def test_what_is_written_reads_back(frame, tmp_path, suffix):
    path = export(frame, tmp_path / f"out{suffix}")
    assert path == tmp_path / f"out{suffix}"
    again = read(path)
    assert again.columns.tolist() == frame.columns.tolist()
    expected = plain(frame)
    if suffix == ".xlsx":
        expected[0][0] = BODIES[0].replace("\r\n", "\n")  # XML has one line end
    assert plain(again) == expected


@pytest.mark.parametrize("suffix", TABLES)
def test_the_frame_is_untouched(frame, tmp_path, suffix):
    frame.attrs["pandas_llm"] = "{}"
    before = frame.copy(deep=True)
    export(frame, tmp_path / f"out{suffix}")
    pd.testing.assert_frame_equal(frame, before)
    assert frame.attrs == before.attrs


def test_parquet_keeps_dtypes(frame, tmp_path):
    again = pd.read_parquet(export(frame, tmp_path / "out.parquet"))
    pd.testing.assert_frame_equal(again, frame)


def test_the_format_may_be_said_without_a_suffix(frame, tmp_path):
    assert len(pd.read_csv(export(frame, tmp_path / "out.txt", format="csv"))) == 3
    assert len(pd.read_csv(export(frame, str(tmp_path / "OUT.CSV")))) == 3


def test_csv_quotes_all_text_and_leaves_it_as_it_is(tmp_path):
    texts = ["=1+1", "+1", "-1", "@x", "\tx", "'q", "007", "a\rb"]
    path = export(pd.DataFrame({"t": texts, "n": 1}), tmp_path / "out.csv")
    assert path.read_bytes().startswith(b'"t","n"\n"=1+1",1\n')
    assert pd.read_csv(path, dtype={"t": str})["t"].tolist() == texts
    assert not path.read_bytes().startswith(b"\xef\xbb\xbf")


def test_a_text_in_a_workbook_is_never_a_formula_or_an_error(tmp_path):
    texts = ["=1+1", "+1", "-1", "@x", "#N/A", "\tx", "=HYPERLINK(1)"]
    sheet = openpyxl.load_workbook(export(pd.DataFrame({"=t": texts}), tmp_path / "out.xlsx")).active
    cells = [sheet.cell(row, 1) for row in range(1, 9)]
    assert [cell.value for cell in cells] == ["=t", *texts]
    assert {cell.data_type for cell in cells} == {"s"}
    assert all(cell.quotePrefix for cell in cells)


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        (123456789012345, 123456789012345),
        (1234567890123456789, "1234567890123456789"),
        (True, True),
        (1.5, 1.5),
        (math.inf, "Infinity"),
        (pd.Timestamp("2024-02-29 10:00"), datetime(2024, 2, 29, 10)),  # noqa: DTZ001
        (pd.Timestamp("2024-02-29 10:00:00.000000001"), datetime(2024, 2, 29, 10)),  # noqa: DTZ001
        (pd.Timestamp("2024-02-29 10:00", tz="Europe/Berlin"), "2024-02-29T10:00:00+01:00"),
        (datetime(1899, 1, 1), "1899-01-01T00:00:00"),  # noqa: DTZ001
        (date(2024, 2, 29), datetime(2024, 2, 29)),  # noqa: DTZ001
        (pd.NaT, None),
        (["a", None], '["a", null]'),
        ("a\x00b\x1f\ufffe\ud800", "a\ufffdb\ufffd\ufffd\ufffd"),
        (b"\xff", "/w=="),
    ],
)
def test_a_workbook_holds_what_a_spreadsheet_keeps(tmp_path, value, cell):
    frame = pd.DataFrame({"v": pd.Series([value], dtype=object)})
    sheet = openpyxl.load_workbook(export(frame, tmp_path / "out.xlsx")).active
    assert sheet["A2"].value == cell


def test_times_with_a_zone_are_iso_text_in_a_workbook(tmp_path):
    frame = pd.DataFrame({"t": pd.to_datetime(["2024-02-29 10:00", None]).tz_localize("UTC")})
    sheet = openpyxl.load_workbook(export(frame, tmp_path / "out.xlsx")).active
    assert [sheet["A2"].value, sheet["A3"].value] == ["2024-02-29T10:00:00+00:00", None]


def test_a_cell_too_long_for_a_workbook_is_named_before_anything_is_written(tmp_path):
    export(pd.DataFrame({"body": ["x" * 32_767]}), tmp_path / "fits.xlsx")
    before = names_in(tmp_path)
    with pytest.raises(OptionsError, match=r"Row 1 \(from 0\) of 'body' has 32,768 characters"):
        export(pd.DataFrame({"body": ["x", "😀" * 16_384]}), tmp_path / "out.xlsx")
    assert names_in(tmp_path) == before


class Colour(str, Enum):  # noqa: UP042  # its str() isn't its value
    RED = "red"


class Size(Enum):
    BIG = 2


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("a\x00b\ud800", "a\x00b\ufffd"),
        (pd.NA, None),
        (math.nan, None),
        (-math.inf, "-Infinity"),
        (2**70, 2**70),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.datetime64("2024-02-29"), "2024-02-29T00:00:00"),
        (np.timedelta64(90, "s"), "P0DT0H1M30S"),
        (timedelta(seconds=90), "P0DT0H1M30S"),
        (datetime(2024, 2, 29, tzinfo=UTC), "2024-02-29T00:00:00+00:00"),
        (Decimal("1.10"), "1.10"),
        (b"\xff\x00", base64.b64encode(b"\xff\x00").decode()),
        (Colour.RED, "red"),
        (Size.BIG, 2),
        (np.array([1.0, math.nan]), [1.0, None]),
        ({"b", "a"}, ["a", "b"]),
        ((1, {"k\ud800": [pd.NaT]}), [1, {"k\ufffd": [None]}]),
        (pd.Period("2024-02", "M"), "2024-02"),
    ],
)
def test_any_cell_has_a_json_spelling(tmp_path, value, written):
    frame = pd.DataFrame({"v": pd.Series([value], dtype=object)})
    line = export(frame, tmp_path / "out.jsonl").read_text("utf-8")
    assert json.loads(line) == {"v": written}


def test_json_lines_are_one_line_a_row_in_utf8(tmp_path):
    path = export(pd.DataFrame({"t": ["a\nb", "é\u2028"]}), tmp_path / "out.jsonl")
    assert path.read_bytes() == '{"t": "a\\nb"}\n{"t": "é\u2028"}\n'.encode()


@pytest.mark.parametrize("suffix", [".csv", ".xlsx"])
def test_lists_and_records_are_json_text(tmp_path, suffix):
    cells = [["é", 1], {"a": math.nan}, None, "text", np.array([1, 2])]
    path = export(pd.DataFrame({"v": pd.Series(cells, dtype=object)}), tmp_path / f"out{suffix}")
    assert read(path)["v"].dropna().tolist() == ['["é", 1]', '{"a": null}', "text", "[1, 2]"]


def test_csv_replaces_what_readers_cut_at(tmp_path):
    path = export(pd.DataFrame({"t": ["a\x00b", "c\ud800"]}, dtype=object), tmp_path / "out.csv")
    assert pd.read_csv(path)["t"].tolist() == ["a\ufffdb", "c\ufffd"]


def test_csv_keeps_numbers_unquoted_whatever_their_dtype(tmp_path):
    frame = pd.DataFrame(
        {"n": pd.array([1, None], dtype="Int64"), "c": pd.Categorical([5, 6]), "o": pd.Series([1, "x"])}
    )
    rows = export(frame, tmp_path / "out.csv").read_text("utf-8").splitlines()
    assert rows == ['"n","c","o"', "1,5,1", '"",6,"x"']


@pytest.mark.parametrize(
    ("cells", "back"),
    [
        ([1, "a", None, [2]], ["1", "a", None, "[2]"]),
        ([["a"], ["b", "c"], None], [["a"], ["b", "c"], None]),
        ([[{"a": 1}], [{"a": "x"}]], ['[{"a": 1}]', '[{"a": "x"}]']),
        ([{}, {}], ["{}", "{}"]),
        ([{"a": {}}], ['{"a": {}}']),
        (["a\ud800", "b"], ["a\ufffd", "b"]),
        ([["a\ud800"], ["b"]], [["a\ufffd"], ["b"]]),
        ([2**70, 1], [str(2**70), "1"]),
        ([1j, None], ["1j", None]),
        ([{1: "a"}], [{"1": "a"}]),
        ([[], None], [[], None]),
        ([True, "x"], ["true", "x"]),
    ],
)
def test_parquet_takes_any_column(tmp_path, cells, back):
    frame = pd.DataFrame({"v": pd.Series(cells, dtype=object)})
    again = pd.read_parquet(export(frame, tmp_path / "out.parquet"))["v"]
    listed = [cell.tolist() if isinstance(cell, np.ndarray) else cell for cell in again]
    assert [None if isinstance(cell, float) else cell for cell in listed] == back


def test_parquet_takes_categories_of_mixed_types_and_a_mixed_index(tmp_path):
    frame = pd.DataFrame({"c": pd.Categorical([1, "a"])}, index=pd.Index([1, "x"], name="id"))
    again = pd.read_parquet(export(frame, tmp_path / "out.parquet"))
    assert (again["c"].tolist(), again.index.tolist(), again.index.name) == (["1", "a"], ["1", "x"], "id")


def test_parquet_takes_any_attrs(frame, tmp_path):
    frame.attrs = {"pandas_llm": '{"body_label": {}}', "mine": object()}
    again = pd.read_parquet(export(frame, tmp_path / "out.parquet"))
    assert again.attrs == {"pandas_llm": '{"body_label": {}}'}


@pytest.mark.parametrize("suffix", TABLES)
def test_an_empty_frame_has_its_columns(frame, tmp_path, suffix):
    path = export(frame.iloc[:0], tmp_path / f"out{suffix}")
    assert len(read(path)) == 0
    if suffix != ".jsonl":
        assert read(path).columns.tolist() == frame.columns.tolist()


# --- Names and index ----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".xlsx"])
def test_an_index_that_says_something_comes_first(tmp_path, suffix):
    frame = pd.DataFrame({"v": [1, 2, 3]}, index=["x", "x", "y"])
    again = read(export(frame, tmp_path / f"out{suffix}"))
    assert again.columns.tolist() == ["index", "v"]
    assert again["index"].tolist() == ["x", "x", "y"]


@pytest.mark.parametrize("suffix", TABLES)
def test_the_rows_numbers_arent_written(tmp_path, suffix):
    assert read(export(pd.DataFrame({"v": [1, 2]}), tmp_path / f"out{suffix}")).columns.tolist() == ["v"]


def test_the_index_of_filtered_rows_and_all_its_levels_are_kept(tmp_path):
    frame = pd.DataFrame({"v": [1, 2, 3], "index": [7, 8, 9]})
    assert pd.read_csv(export(frame.iloc[[0, 2]], tmp_path / "a.csv"))["level_0"].tolist() == [0, 2]
    deep = frame.set_index(pd.MultiIndex.from_tuples([("a", 1), ("a", 1), ("b", 2)], names=["k", None]))
    again = pd.read_csv(export(deep, tmp_path / "b.csv"))
    assert again.columns.tolist() == ["k", "level_1", "v", "index"]
    assert again["k"].tolist() == ["a", "a", "b"]


def test_parquet_keeps_the_index_as_pandas_does(tmp_path):
    frame = pd.DataFrame({"v": [1, 2, 3]}, index=pd.Index(["x", "x", "y"], name="who"))
    pd.testing.assert_frame_equal(pd.read_parquet(export(frame, tmp_path / "a.parquet")), frame)
    deep = frame.set_index(pd.MultiIndex.from_tuples([("a", 1), ("a", 1), ("b", 2)]))
    pd.testing.assert_frame_equal(pd.read_parquet(export(deep, tmp_path / "b.parquet")), deep)


@pytest.mark.parametrize("suffix", TABLES)
def test_levels_of_column_names_are_joined_by_dots(tmp_path, suffix):
    columns = pd.MultiIndex.from_tuples([("text", "de"), ("text", "en"), ("label", "")])
    path = export(pd.DataFrame([["a", "b", "c"]], columns=columns), tmp_path / f"out{suffix}")
    assert read(path).columns.tolist() == ["text.de", "text.en", "label"]


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_two_columns_of_one_name_are_refused_by_name(tmp_path, suffix):
    with pytest.raises(OptionsError, match="two columns of one name: rename all but one of 'a'"):
        export(pd.DataFrame([[1, 2, 3]], columns=["a", "b", "a"]), tmp_path / f"out{suffix}")
    assert names_in(tmp_path) == []


def test_csv_and_workbooks_hold_two_columns_of_one_name(tmp_path):
    frame = pd.DataFrame([[1, "x"]], columns=["a", "a"])
    assert export(frame, tmp_path / "out.csv").read_text("utf-8") == '"a","a"\n1,"x"\n'
    sheet = openpyxl.load_workbook(export(frame, tmp_path / "out.xlsx")).active
    assert [[cell.value for cell in row] for row in sheet.rows] == [["a", "a"], [1, "x"]]


# --- Annotators and trainers --------------------------------------------------------------------------


def tasks(frame, tmp_path, **more):
    return json.loads(
        export(frame, tmp_path / "tasks.json", format="label-studio", **more).read_text("utf-8")
    )


def test_label_studio_gets_a_task_a_row_with_the_answer_as_a_prediction(frame, tmp_path):
    frame = frame.assign(id=[7, 8, 9], body_label_confidence=[0.75, math.nan, math.nan])
    asked = {"body_label": {"verb": "classify", "model": "gpt-6-luna"}}
    first, second, third = tasks(frame, tmp_path, text="body", provenance=asked)
    assert first == {
        "data": {"body": BODIES[0], "id": 7, "text": BODIES[0]},
        "predictions": [
            {
                "model_version": "gpt-6-luna",
                "score": 0.75,
                "result": [
                    {
                        "from_name": "body_label",
                        "to_name": "text",
                        "type": "choices",
                        "value": {"choices": ["bug"]},
                    }
                ],
            }
        ],
    }
    assert second["predictions"] == []
    assert "score" not in third["predictions"][0]


def test_label_studio_takes_several_labels_and_labels_that_are_numbers(tmp_path):
    frame = pd.DataFrame({"t": ["x", "y"], "tags": [["a", "b"], [3]], "tags_model": ["m-1", None]})
    frame.attrs["pandas_llm"] = json.dumps({"tags": {"model": "m"}})
    first, second = tasks(frame, tmp_path, output="tags")
    assert first["data"] == {"t": "x"}
    assert first["predictions"][0]["result"][0]["value"]["choices"] == ["a", "b"]
    assert second["predictions"][0]["result"][0]["value"]["choices"] == ["3"]
    assert [first["predictions"][0]["model_version"], second["predictions"][0]["model_version"]] == [
        "m-1",
        "m",
    ]


def test_label_studio_leaves_out_every_field_that_a_question_wrote(tmp_path):
    frame = pd.DataFrame({"t": ["x"], "total": [1.5], "currency": ["EUR"], "extract_error": [None]})
    asked = {"extract": {"model": "m", "columns": ["total", "currency"]}}
    (task,) = tasks(frame, tmp_path, output="currency", provenance=asked)
    assert task["data"] == {"t": "x"}
    assert task["predictions"][0]["model_version"] == "m"


def test_label_studio_shows_several_columns_as_one_text(tmp_path):
    frame = pd.DataFrame({"title": ["T", None], "body": ["B", "C"], "n": [1, 2], "label": ["x", "y"]})
    first, second = tasks(frame, tmp_path, text=["title", "body", "n"], output="label")
    assert (first["data"]["text"], second["data"]["text"]) == ("title: T\nbody: B\nn: 1", "body: C\nn: 2")


def test_label_studio_needs_to_know_the_output(frame, tmp_path):
    with pytest.raises(OptionsError, match="needs output=, the column with the answers"):
        tasks(frame[["body"]], tmp_path)
    two = frame.assign(b=1, b_source=frame["body_label_source"])
    with pytest.raises(OptionsError, match="needs output=, one of 'body_label', 'b'"):
        tasks(two, tmp_path)
    with pytest.raises(OptionsError, match=r"no column 'body_labl'\. Did you mean 'body_label'\?"):
        tasks(frame, tmp_path, output="body_labl")
    with pytest.raises(OptionsError, match=r"no column 'bdy'\. Did you mean 'body'\?"):
        tasks(frame, tmp_path, text="bdy")
    with pytest.raises(OptionsError, match="has a column 'text' besides"):
        tasks(frame.assign(text="x"), tmp_path, text="body")
    assert names_in(tmp_path) == []


def test_fine_tuning_gets_the_messages_of_rows_that_have_an_answer(frame, tmp_path):
    chat = [{"role": "system", "content": "Pick."}, {"role": "user", "content": "é\ud800"}]
    path = export(frame, tmp_path / "t.jsonl", format="openai-finetune", chats=lambda: iter([chat, None]))
    assert [json.loads(line) for line in path.read_text("utf-8").splitlines()] == [
        {"messages": [{"role": "system", "content": "Pick."}, {"role": "user", "content": "é\ufffd"}]}
    ]
    assert notes_of(path)["rows"] == 1


def test_fine_tuning_on_nothing_is_refused(frame, tmp_path):
    with pytest.raises(OptionsError, match="No row has an answer"):
        export(frame, tmp_path / "t.jsonl", format="openai-finetune", chats=lambda: iter([None]))
    with pytest.raises(OptionsError, match="needs the messages"):
        export(frame, tmp_path / "t.jsonl", format="openai-finetune")
    assert names_in(tmp_path) == []


def test_a_dataset_folder_opens_and_is_replaced_only_by_another(frame, tmp_path):
    datasets = pytest.importorskip("datasets")
    path = tmp_path / "set"
    export(frame, path, format="datasets")
    export(frame.iloc[:2], path, format="datasets", overwrite=True)
    again = datasets.load_from_disk(str(path))
    assert list(again["body_label"]) == ["bug", None]
    assert names_in(tmp_path) == ["set", "set.provenance.json"]
    assert notes_of(path)["rows"] == 2


# --- What is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize("package", ["pyarrow", "openpyxl", "datasets"])
def test_a_missing_package_is_named_with_its_pip_line(frame, tmp_path, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    kind = {"pyarrow": "parquet", "openpyxl": "xlsx", "datasets": "datasets"}[package]
    line = "pip install datasets" if package == "datasets" else r'pip install "pandas-llm-accessor\[export\]"'
    with pytest.raises(OptionsError, match=f"needs the package {package}: {line}"):
        export(frame, tmp_path / "out", format=kind)
    assert names_in(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "format_", "message"),
    [
        ("out.parqet", None, r"The suffix '\.parqet' isn't one of .* Did you mean '\.parquet'\?"),
        ("out.json", None, r"for others say format=\. Did you mean '\.jsonl'\?"),
        ("out", None, "The suffix '' isn't one of"),
        ("out.json", "labelstudio", r"Did you mean 'label-studio'\?"),
        ("out.json", 3, "format=3 isn't one of csv"),
    ],
)
def test_an_unknown_format_is_answered_with_the_nearest(frame, tmp_path, name, format_, message):
    with pytest.raises(OptionsError, match=message):
        export(frame, tmp_path / name, format=format_)
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("dtype", ["category", object])
def test_pending_rows_are_refused_unless_incomplete(frame, tmp_path, dtype):
    frame["body_label_source"] = pd.Series(["api", "pending", "pending"], dtype=dtype)
    frame["other_source"] = pd.Series(["pending", "api", None], dtype=dtype)
    with pytest.raises(
        OptionsError, match=r"3 rows are pending\. Running the same line again asks for the rest"
    ):
        export(frame, tmp_path / "out.csv")
    assert names_in(tmp_path) == []
    assert len(pd.read_csv(export(frame, tmp_path / "out.csv", incomplete=True))) == 3


def test_pending_rows_are_seen_without_a_source_column(tmp_path):
    frame = pd.DataFrame({"label": ["a", None], "label_error": [None, "Pending: max_cost reached"]})
    with pytest.raises(OptionsError, match="1 row is pending"):
        export(frame, tmp_path / "out.csv")


def test_a_source_column_of_the_user_is_none_of_ours(tmp_path):
    frame = pd.DataFrame({"data_source": ["pending", "newspaper"]})
    assert len(pd.read_csv(export(frame, tmp_path / "out.csv"))) == 2


def test_what_exists_is_replaced_only_with_overwrite(frame, tmp_path):
    path = export(frame, tmp_path / "out.csv")
    with pytest.raises(OptionsError, match="overwrite=True replaces it"):
        export(frame.iloc[:1], path)
    assert len(pd.read_csv(path)) == 3
    export(frame.iloc[:1], path, overwrite=True)
    assert len(pd.read_csv(path)) == 1
    assert notes_of(path)["rows"] == 1


def test_a_folder_is_never_deleted_for_a_file(frame, tmp_path):
    folder = tmp_path / "precious.csv"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years")
    for kind in ("csv", "datasets"):
        with pytest.raises(OptionsError, match="precious"):
            export(frame, folder, format=kind, overwrite=True)
    assert (folder / "thesis.txt").read_text() == "years"


def test_a_missing_folder_is_named(frame, tmp_path):
    with pytest.raises(OptionsError, match=r"There is no folder .*nowhere"):
        export(frame, tmp_path / "nowhere" / "out.csv")


def test_text_and_output_belong_to_label_studio(frame, tmp_path):
    with pytest.raises(OptionsError, match="text= and output= go with"):
        export(frame, tmp_path / "out.csv", text="body")


# --- Provenance, and whole or not at all --------------------------------------------------------------


def test_the_provenance_stands_beside_the_file(frame, tmp_path):
    asked = {"body_label": {"model": "gpt-6-luna", "when": pd.Timestamp("2024-02-29")}}
    path = export(frame, tmp_path / "out.csv", provenance=asked)
    notes = notes_of(path)
    assert datetime.now(UTC) - datetime.fromisoformat(notes.pop("written_at")) < timedelta(minutes=5)
    assert notes == {
        "file": "out.csv",
        "format": "csv",
        "columns": frame.columns.tolist(),
        "provenance": {"body_label": {"model": "gpt-6-luna", "when": "2024-02-29T00:00:00"}},
        "rows": 3,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "pandas_llm": VERSION,
    }


def test_without_a_provenance_the_frames_own_is_written(frame, tmp_path):
    frame.attrs["pandas_llm"] = json.dumps({"body_label": {"model": "m"}})
    assert notes_of(export(frame, tmp_path / "out.csv"))["provenance"] == {"body_label": {"model": "m"}}


class Unwritable:
    def __str__(self) -> str:
        raise RuntimeError("no text of me")


@pytest.mark.parametrize("suffix", TABLES)
def test_a_writer_that_fails_leaves_nothing_behind(tmp_path, suffix):
    frame = pd.DataFrame({"v": pd.Series(["a", Unwritable()], dtype=object)})
    with pytest.raises(RuntimeError, match="no text of me"):
        export(frame, tmp_path / f"out{suffix}")
    assert names_in(tmp_path) == []


def test_a_writer_that_fails_midway_leaves_the_old_file_as_it_was(frame, tmp_path):
    path = export(frame, tmp_path / "out.jsonl")
    before = {name: (tmp_path / name).read_bytes() for name in names_in(tmp_path)}

    def chats():
        yield [{"role": "user", "content": "x"}]
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        export(frame, path, format="openai-finetune", chats=chats, overwrite=True)
    assert {name: (tmp_path / name).read_bytes() for name in names_in(tmp_path)} == before


def test_a_file_that_cant_be_put_in_place_takes_its_provenance_with_it(frame, tmp_path):
    path = tmp_path / "out.jsonl"

    def chats():
        path.mkdir()  # somebody else is quicker
        (path / "theirs").touch()
        yield [{"role": "user", "content": "x"}]

    with pytest.raises(OSError, match=r"out\.jsonl"):
        export(frame, path, format="openai-finetune", chats=chats)
    assert names_in(tmp_path) == ["out.jsonl"]
    assert names_in(path) == ["theirs"]


def test_a_frame_of_its_own_class_is_exported(tmp_path):
    class Tickets(pd.DataFrame):
        @property
        def _constructor(self):
            return Tickets

    path = export(Tickets({"a": ["x"]}), tmp_path / "out.csv")
    with path.open(newline="") as file:
        assert list(csv.reader(file)) == [["a"], ["x"]]
