"""`df.llm` and `s.llm`: the verbs' signatures and docstrings, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar

import pandas as pd

from pandas_llm.core.options import EmbedOptions, RunOptions
from pandas_llm.settings import resolve
from pandas_llm.signatures import OF_COLUMNS, OF_SERIES, OF_TEXTS, complete, named

# All that works is imported by the first call: importing the package takes 20 ms then, not 150.
if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pandas_llm.core.budget import Budget
    from pandas_llm.core.options import Options
    from pandas_llm.evaluate import Evaluation
    from pandas_llm.history import Estimate, Shown
    from pandas_llm.prepare import Ask

R_co = TypeVar("R_co", covariant=True)
V = TypeVar("V")
P = ParamSpec("P")

Model = str | Callable[[list[str]], Any] | None
Labels = Sequence[str] | Sequence[int] | Mapping[str, str | None] | Mapping[int, str | None] | type | Any
Examples = Sequence[tuple[Any, Any]] | pd.DataFrame | None


class Verbs(Generic[R_co]):
    """Each verb, defined once; how it is executed is the subclass's."""

    def _execute(self, ask: Ask, options: Mapping[str, Any]) -> R_co:
        raise NotImplementedError

    @named
    def classify(
        self,
        text: Any,
        /,
        labels: Labels,
        *,
        multi_label: bool = False,
        instructions: str | None = None,
        examples: Examples = None,
        explain: bool = False,
        confidence: bool = False,
        output: str | None = None,
        **options: Unpack[RunOptions],
    ) -> R_co:
        r"""A label for each row, one of those given and nothing else.

        Parameters
        ----------
        text : column name, list of column names, or template
            What is labelled: a column, several as `name: …` lines, or `"Title: {title}\n\n{body}"`.
        labels : list of str or of int, {label: description}, Enum or Literal
            At least two, in the order the categories get. A set is refused: its order changes with each
            process, and with it key and bill.
        multi_label : bool, default False
            Any number of labels a row: the column holds lists, in label order.
        instructions : str, optional
            What to go by, for every row.
        examples : list of (text, label) or DataFrame, optional
            Solved cases. A DataFrame has the text's columns and one named like the output.
        explain : bool, default False
            Add `{output}_explanation`, a sentence asked for before the label.
        confidence : bool, default False
            Add `{output}_confidence` in [0, 1], from the log-probabilities of the label's tokens.
        output : str, optional
            Name of the column; `"{column}_label"` where the prompt uses one column, else `"label"`.
        **options
            See below.

        Returns
        -------
        DataFrame
            A new frame: the same rows, order, index and columns, and at the end a `Categorical` with exactly
            these labels (missing where there is no answer), its error, source, tokens and cost.

        Raises
        ------
        OptionsError
            Before anything is sent: a wrong column, label, option, options that don't go together (such as
            `deadline` without `mode="auto"`), a colliding output, no key.
        Interrupted
            After Ctrl-C, with what was answered on `.frame`. Batches go on; the same line collects them.

        Examples
        --------
        >>> import pandas as pd, pandas_llm
        >>> df = pd.DataFrame({"body": ["It crashes", "How do I log in?"]})
        >>> out = df.llm.classify("body", ["bug", "question"])  # doctest: +SKIP

        At half the price within a day; by the cheapest way that should be done in six hours:

        >>> out = df.llm.classify("body", ["bug", "question"], mode="batch")  # doctest: +SKIP
        >>> out = df.llm.classify("body", ["bug", "question"], mode="auto", deadline="6h")  # doctest: +SKIP
        """
        from pandas_llm.prepare import Ask
        from pandas_llm.verbs import classify

        make = partial(classify.task, labels, multi_label=multi_label, explain=explain, confidence=confidence)
        flags = {"explain": explain, "confidence": confidence, "multi_label": multi_label}
        return self._execute(
            Ask("classify", text, output, instructions, examples, make, labels, flags), options
        )

    @named
    def extract(
        self,
        text: Any,
        /,
        schema: Any,
        *,
        many: bool = False,
        instructions: str | None = None,
        examples: Examples = None,
        output: str | None = None,
        **options: Unpack[RunOptions],
    ) -> R_co:
        """The fields of a schema, read from each row's text: one column a field.

        Parameters
        ----------
        text : column name, list of column names, or template
            What is read.
        schema : pydantic model, TypedDict, {field: type}, list of field names, or JSON schema
            `str`, `int`, `float`, `bool`, `date`, `datetime`, Enum, Literal, lists and nested models. A field
            of a dict or a list of names may be absent from the text and is then missing.
        many : bool, default False
            Any number of records a text: one column of lists of records.
        instructions : str, optional
            What to go by, for every row.
        examples : list of (text, {field: value}) or DataFrame, optional
            Solved cases.
        output : str, optional
            Prefix of the columns (`inv_total`); with `many` the column's name, default `"records"`.
        **options
            See below.

        Returns
        -------
        DataFrame
            A new frame with the fields as columns of their own dtypes, then error, source, tokens and cost.

        Raises
        ------
        SchemaError
            Before anything is sent: what strict JSON schema can't express, and how to write it instead.
        OptionsError
            Before anything is sent: a wrong column, option, a colliding output, no key.

        Examples
        --------
        >>> import pandas as pd, pandas_llm
        >>> df = pd.DataFrame({"mail": ["Invoice 17 over 40 EUR"]})
        >>> out = df.llm.extract("mail", {"number": int, "total": float})  # doctest: +SKIP
        """
        from pandas_llm.prepare import Ask
        from pandas_llm.verbs import extract

        make = partial(extract.task, schema, many=many)
        flags = {"many": many}
        return self._execute(
            Ask("extract", text, output, instructions, examples, make, schema, flags), options
        )

    @named
    def generate(
        self,
        text: Any,
        /,
        instructions: str | None = None,
        *,
        examples: Examples = None,
        output: str | None = None,
        **options: Unpack[RunOptions],
    ) -> R_co:
        """A text for each row, written by the instructions.

        Parameters
        ----------
        text : column name, list of column names, or template
            What is rewritten, summarised, translated, answered.
        instructions : str, optional
            What to do with it, for every row.
        examples : list of (text, text) or DataFrame, optional
            Solved cases.
        output : str, optional
            Name of the column; `"{column}_output"` where the prompt uses one column, else `"output"`.
        **options
            See below.

        Returns
        -------
        DataFrame
            A new frame with one text column, its error, source, tokens and cost.

        Raises
        ------
        OptionsError
            Before anything is sent: a wrong column, option, a colliding output, no key.

        Examples
        --------
        >>> import pandas as pd, pandas_llm
        >>> df = pd.DataFrame({"body": ["Das Paket ist da."]})
        >>> out = df.llm.generate("body", "Translate into English.")  # doctest: +SKIP
        """
        from pandas_llm.prepare import Ask
        from pandas_llm.verbs import generate

        return self._execute(Ask("generate", text, output, instructions, examples, generate.task), options)

    @named
    def embed(
        self, text: Any, /, *, output: str | None = None, model: Model = None, **options: Unpack[EmbedOptions]
    ) -> R_co:
        """A vector for each row, an array of float32, near those of texts that mean the same.

        Parameters
        ----------
        text : column name, list of column names, or template
            What is embedded.
        output : str, optional
            Name of the column; `"{column}_embedding"` where one column is used, else `"embedding"`.
        model : str or function, optional
            The endpoint's, `"local"`, or a function: list of texts -> array, one row a text, kept under its
            name and code. Default `"text-embedding-3-small"`, or `"local"` where that is configured; what
            else is configured as `model` and `params` is for language; `params={"dimensions": 256}` isn't.
        **options
            See below.

        Returns
        -------
        DataFrame
            A new frame with one column of arrays (None where there is none), and what they cost.

        Examples
        --------
        >>> import pandas as pd, pandas_llm
        >>> out = pd.DataFrame({"body": ["It crashes."]}).llm.embed("body")  # doctest: +SKIP
        """
        from pandas_llm.prepare import Ask
        from pandas_llm.verbs import embed

        ask = Ask("embed", text, output, None, None, embed.task, embedder=_function(model))
        return self._execute(ask, _for_vectors(model, options))

    @named
    def dedupe(
        self,
        text: Any,
        /,
        *,
        threshold: float = 0.8,
        guards: bool = True,
        output: str | None = None,
        model: Model = None,
        **options: Unpack[EmbedOptions],
    ) -> R_co:
        """A group for each row, with the rows that say the same; none is dropped, no language model is asked.

        Parameters
        ----------
        text : column name, list of column names, or template
            What is compared. Equal texts are always in one group.
        threshold : float, default 0.8
            The least cosine of two texts' vectors. The guards decide on what is above: of 204 near-copies
            that they allow, 187 have 0.8 or more with the local model, 158 have 0.9.
        guards : bool, default True
            Keep apart what differs in a number, date, name, negation, order or whatever else isn't known to
            be harmless. False: similarity alone decides, which at 0.95 still puts together two in five of
            1,082 pairs that say different things.
        output : str, optional
            Name of the first column; `"{column}_group"` where one column is used, else `"group"`.
        model : str or function, optional
            What makes the vectors, as for `embed`, with which it shares them.
        **options
            See below.

        Returns
        -------
        DataFrame
            A new frame: `{output}` (Int64, from 0 in the order of first appearance), `{output}_size` (its
            rows) and `{output}_similarity` to the group's first text; missing where there is no text.

        Raises
        ------
        OptionsError
            Before anything is sent: a wrong column, threshold, option, a colliding output, no key.

        Examples
        --------
        >>> import pandas as pd, pandas_llm
        >>> df = pd.DataFrame({"body": ["Where is order 17?", "hi, where is order 17", "Where is order 18?"]})
        >>> out = df.llm.dedupe("body", model="local")  # doctest: +SKIP
        >>> out["body_group"].tolist()  # doctest: +SKIP
        [0, 0, 1]
        >>> first_ones = out[~out.duplicated("body_group") | out["body_group"].isna()]  # doctest: +SKIP
        """
        from pandas_llm.nearness import Grouping
        from pandas_llm.prepare import Ask
        from pandas_llm.verbs import embed

        grouping = Grouping(threshold, guards)
        ask = Ask("embed", text, output, None, None, embed.task, embedder=_function(model), together=grouping)
        return self._execute(ask, {"details": "none", **_for_vectors(model, options)})


def _function(model: Model) -> Callable[[list[str]], Any] | None:
    return model if callable(model) else None


def _for_vectors(model: Model, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a call for vectors: what else is configured of these is for language."""
    from pandas_llm.verbs import embed

    asked = embed.model_id(model, resolve({})[0].model)
    return {"params": {}, "dedupe": "exact", **options, "model": asked}


class _OfFrame(Verbs[R_co]):
    """Verbs over one frame. It keeps the frame only as long as the expression that made it."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self._frame = frame

    @named
    def similar(
        self,
        text: Any,
        /,
        query: str,
        *,
        k: int = 10,
        model: Model = None,
        **options: Unpack[EmbedOptions],
    ) -> R_co:
        """The rows whose text is nearest to a query, best first.

        Parameters
        ----------
        text : column name, list of column names, or template
            What is searched.
        query : str
            What is looked for, in any words.
        k : int, default 10
            How many rows to find.
        model : str or function, optional
            What makes the vectors, as for `embed`, with which it shares them.
        **options
            See below.

        Returns
        -------
        DataFrame
            `k` rows of the frame with their labels, and at the end `similarity`, the cosine from -1 to 1
            (`"{column}_similarity"` where the frame has that already). Rows without text aren't found.

        Raises
        ------
        OptionsError
            Before anything is sent: a wrong column, query, option, no key.
        RowErrors
            The query got no vector.

        Examples
        --------
        >>> import pandas as pd, pandas_llm
        >>> df = pd.DataFrame({"body": ["The app crashes on start.", "Where is my parcel?"]})
        >>> df.llm.similar("body", "delivery is late", k=1, model="local")["body"].tolist()  # doctest: +SKIP
        ['Where is my parcel?']
        """
        from pandas_llm import nearness
        from pandas_llm.prepare import Ask
        from pandas_llm.verbs import embed

        ask = Ask("embed", text, None, None, None, embed.task, embedder=_function(model))
        beside, ask = nearness.search(self._frame, ask, query, k)
        return type(self)(beside)._execute(ask, {**_for_vectors(model, options), "details": "errors"})


class AsyncVerbs(_OfFrame[Coroutine[Any, Any, pd.DataFrame]]):
    """`df.llm.aio`: the verbs as coroutines of the caller's own loop. Arguments are checked at the call."""

    def _execute(self, ask: Ask, options: Mapping[str, Any]) -> Coroutine[Any, Any, pd.DataFrame]:
        from pandas_llm import call

        return call.answer_async(self._frame, ask, *resolve(options))


class EstimateVerbs(_OfFrame["Estimate"]):
    """`df.llm.estimate`: what the verbs would cost. Nothing is sent."""

    def _execute(self, ask: Ask, options: Mapping[str, Any]) -> Estimate:
        from pandas_llm import call

        return call.estimate(self._frame, ask, *resolve(options))


class DataFrameLLM(_OfFrame[pd.DataFrame]):
    """`df.llm`: the verbs over a DataFrame's columns, and what came of them."""

    def _execute(self, ask: Ask, options: Mapping[str, Any]) -> pd.DataFrame:
        from pandas_llm import call

        return call.answer(self._frame, ask, *resolve(options))

    @property
    def aio(self) -> AsyncVerbs:
        """The same verbs as coroutines."""
        return AsyncVerbs(self._frame)

    @property
    def estimate(self) -> EstimateVerbs:
        """The same verbs, sending nothing: rows, requests, tokens, cost and time as ranges, by each route.

        `.write_jsonl(path)` of what they return writes the input file of a batch.
        """
        return EstimateVerbs(self._frame)

    @property
    def provenance(self) -> dict[str, Any]:
        """For each output of this frame: the question that wrote it, and its runs as the store knows them."""
        from pandas_llm import lookback

        return lookback.provenance(self._frame)

    def show(self, i: int, output: str | None = None) -> Shown:
        """The exact messages and every raw reply behind a row, rendered again and found by key.

        Parameters
        ----------
        i : int
            Position of the row, as in `iloc`.
        output : str, optional
            Which output, where the frame has several.

        Examples
        --------
        >>> out.llm.show(0)  # doctest: +SKIP
        """
        from pandas_llm import lookback

        return lookback.show(self._frame, i, output)

    def export(
        self,
        path: str | Path,
        *,
        format: str | None = None,
        text: Any = None,
        output: str | None = None,
        overwrite: bool = False,
        incomplete: bool = False,
    ) -> Path:
        """The path of a file with this frame, and `<path>.provenance.json` beside it.

        Parameters
        ----------
        path : str or Path
            `.csv`, `.parquet`, `.jsonl` or `.xlsx`, all columns.
        format : {"label-studio", "openai-finetune", "datasets"}, optional
            Instead of what the suffix says: Label Studio tasks, chat JSONL as sent, a Hugging Face folder.
        text, output : optional
            The text column and the output for these formats, where they can't be told.
        overwrite : bool, default False
            Replace an existing file.
        incomplete : bool, default False
            Write although rows are pending.

        Raises
        ------
        OptionsError
            Pending rows, an existing file, an unknown format, a missing extra; nothing is written.

        Examples
        --------
        >>> out.llm.export("labelled.parquet")  # doctest: +SKIP
        """
        from pandas_llm import lookback
        from pandas_llm.export import export

        return export(
            self._frame,
            path,
            format=format,
            text=text,
            output=output,
            overwrite=overwrite,
            incomplete=incomplete,
            provenance=self.provenance,
            chats=partial(lookback.chats, self._frame, output),
        )

    def evaluate(self, gold: Any, output: str | None = None) -> Evaluation:
        """How right an output is, against gold labels.

        Parameters
        ----------
        gold : column name, Series, list or array
            The right answers, of any dtype; compared as text. Rows without one are left out and counted.
        output : str, optional
            Which output, where the frame has several.

        Returns
        -------
        Evaluation
            `.accuracy` with its 95 % `.interval`, `.macro_f1`, `.kappa`, `.confusion`, `.per_label`,
            `.coverage`, `.cost_per_right_label`; of a confidence `.reliability` and `.ece`; `.plot()`.

        Examples
        --------
        >>> out.llm.evaluate("gold")  # doctest: +SKIP
        """
        from pandas_llm import lookback

        return lookback.evaluate_output(self._frame, gold, output)

    def __repr__(self) -> str:
        return _card("df.llm", self._frame)


def _number(n: int, one: str) -> str:
    return f"{n:,} {one if n == 1 else one + 's'}"


def _card(name: str, frame: pd.DataFrame) -> str:
    return f"""{name} of {_number(len(frame), "row")}
  .classify(text, labels)            a label for each row
  .extract(text, schema)             one column a field
  .generate(text, instructions)      a text for each row
  .embed(text)                       a vector for each row
  .dedupe(text)                      a group for each row, with those that say the same
  .similar(text, query)              the rows nearest to a query
  .estimate.<verb>(…)                rows, requests, tokens, cost; sends nothing
  .aio.<verb>(…)                     the same as a coroutine
  .show(row)  .evaluate(gold)  .export(path)  .provenance
Every verb returns a new frame. Options: help({name}.classify), pandas_llm.configure()"""


class _OfSeries(Verbs[R_co]):
    """Verbs over one Series, as the only column of a frame."""

    def __init__(self, series: pd.Series[Any], run: Callable[[pd.DataFrame, Ask, Any, Any], R_co]) -> None:
        self._series = series
        self._run = run

    def _execute(self, ask: Ask, options: Mapping[str, Any]) -> R_co:
        # A Series is assigned to a column: what it would stand beside is not there.
        return self._run(
            self._series.to_frame(0), ask.of_series(self._series.name), *resolve(options, details="none")
        )


class _SeriesDoor(Generic[R_co]):
    """What a Series' verbs need: the verbs themselves, which then lose their first argument."""

    def __init__(self, series: pd.Series[Any]) -> None:
        self._series = series

    def _run(self, frame: pd.DataFrame, ask: Ask, options: Options, budget: Budget | None) -> R_co:
        raise NotImplementedError

    @property
    def _verbs(self) -> Verbs[R_co]:
        return _OfSeries(self._series, self._run)

    def _of_frame(self, frame: pd.DataFrame) -> _OfFrame[R_co]:
        """The verbs of a frame, executed alike."""
        raise NotImplementedError

    def similar(
        self, query: str, *, k: int = 10, model: Model = None, **options: Unpack[EmbedOptions]
    ) -> R_co:
        """As for a frame."""
        beside = self._series.to_frame()
        return self._of_frame(beside).similar(beside.columns[0], query, k=k, model=model, **options)


def without_text(
    verb: Callable[Concatenate[Verbs[R_co], Any, P], R_co],
) -> Callable[Concatenate[_SeriesDoor[R_co], P], R_co]:
    """A verb whose text is the Series itself; its keywords stay checked."""

    @wraps(verb)
    def of_series(self: _SeriesDoor[R_co], /, *args: P.args, **kwargs: P.kwargs) -> R_co:
        if len(args) > 1:
            raise TypeError("On a Series the text is the Series itself: leave the first argument out.")
        return verb(self._verbs, 0, *args, **kwargs)

    return of_series


Out = pd.Series | pd.DataFrame


class AsyncSeriesVerbs(_SeriesDoor[Coroutine[Any, Any, Out]]):
    """`s.llm.aio`: the verbs as coroutines."""

    def _run(
        self, frame: pd.DataFrame, ask: Ask, options: Options, budget: Budget | None
    ) -> Coroutine[Any, Any, Out]:
        from pandas_llm import call

        return call.series_async(frame, ask, options, budget)

    def _of_frame(self, frame: pd.DataFrame) -> AsyncVerbs:
        return AsyncVerbs(frame)

    classify = without_text(Verbs[Coroutine[Any, Any, Out]].classify)
    extract = without_text(Verbs[Coroutine[Any, Any, Out]].extract)
    generate = without_text(Verbs[Coroutine[Any, Any, Out]].generate)
    embed = without_text(Verbs[Coroutine[Any, Any, Out]].embed)
    dedupe = without_text(Verbs[Coroutine[Any, Any, Out]].dedupe)


class EstimateSeriesVerbs(_SeriesDoor["Estimate"]):
    """`s.llm.estimate`: what the verbs would cost. Nothing is sent."""

    def _run(self, frame: pd.DataFrame, ask: Ask, options: Options, budget: Budget | None) -> Estimate:
        from pandas_llm import call

        run = partial(call.series_answer, frame, ask, options, budget)
        return replace(call.estimate(frame, ask, options, budget), _run=run)

    def _of_frame(self, frame: pd.DataFrame) -> EstimateVerbs:
        return EstimateVerbs(frame)

    classify = without_text(Verbs["Estimate"].classify)
    extract = without_text(Verbs["Estimate"].extract)
    generate = without_text(Verbs["Estimate"].generate)
    embed = without_text(Verbs["Estimate"].embed)
    dedupe = without_text(Verbs["Estimate"].dedupe)


class SeriesLLM(_SeriesDoor[Out]):
    """`s.llm`: the verbs over a Series. One Series comes back, or a frame where there are more columns."""

    def _run(self, frame: pd.DataFrame, ask: Ask, options: Options, budget: Budget | None) -> Out:
        from pandas_llm import call

        return call.series_answer(frame, ask, options, budget)  # type: ignore[no-any-return]

    def _of_frame(self, frame: pd.DataFrame) -> DataFrameLLM:
        return DataFrameLLM(frame)

    classify = without_text(Verbs[Out].classify)
    extract = without_text(Verbs[Out].extract)
    generate = without_text(Verbs[Out].generate)
    embed = without_text(Verbs[Out].embed)
    dedupe = without_text(Verbs[Out].dedupe)

    @property
    def aio(self) -> AsyncSeriesVerbs:
        """The same verbs as coroutines."""
        return AsyncSeriesVerbs(self._series)

    @property
    def estimate(self) -> EstimateSeriesVerbs:
        """The same verbs, sending nothing."""
        return EstimateSeriesVerbs(self._series)

    def __repr__(self) -> str:
        return f"""s.llm of {_number(len(self._series), "text")}
  .classify(labels)            a label for each
  .extract(schema)             a frame of the fields
  .generate(instructions)      a text for each
  .embed()                     a vector for each
  .dedupe()                    a frame of its group, the group's size, how near it is
  .similar(query)              a frame of the nearest ones
  .estimate.<verb>(…)  .aio.<verb>(…)
Options: help(s.llm.classify), pandas_llm.configure()"""


def _complete_verbs() -> None:
    doors = (SeriesLLM, AsyncSeriesVerbs, EstimateSeriesVerbs)
    for name in ("classify", "extract", "generate", "embed"):
        verb = getattr(Verbs, name)
        for door in doors:
            complete(getattr(door, name), verb, details="none", returns=OF_SERIES)
        complete(verb, verb)
    grouping = partial(complete, of=Verbs.dedupe, details="none", without=("dedupe",))
    for door in doors:
        grouping(door.dedupe, returns=OF_COLUMNS)
    grouping(Verbs.dedupe)
    search = partial(complete, of=_OfFrame.similar, without=("dedupe", "details", "on_conflict"))
    search(_SeriesDoor.similar, returns=OF_TEXTS)
    search(_OfFrame.similar)


_complete_verbs()
