"""`df.llm` and `s.llm`: the verbs' signatures and docstrings, and nothing else."""

# ruff: noqa: ARG002 - what `embed`, `dedupe` and `similar` take is settled, what they do comes later
from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, overload

import pandas as pd

from pandas_llm.core.errors import LLMWarning, OptionsError
from pandas_llm.core.options import OPTION_NAMES, RunOptions, check_names, default_of, meaning_of
from pandas_llm.settings import resolve

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

Labels = Sequence[str] | Sequence[int] | Mapping[str, str | None] | Mapping[int, str | None] | type | Any
Examples = Sequence[tuple[Any, Any]] | pd.DataFrame | None


def _named(verb: Callable[Concatenate[V, P], R_co]) -> Callable[Concatenate[V, P], R_co]:
    """A verb that answers a keyword nobody knows before Python misses the argument it stands for."""
    own = verb.__code__.co_varnames[: verb.__code__.co_argcount + verb.__code__.co_kwonlyargcount]

    @wraps(verb)
    def named(self: V, /, *args: P.args, **kwargs: P.kwargs) -> R_co:
        check_names((name for name in kwargs if name not in own or name == "text"), (*OPTION_NAMES, *own[2:]))
        return verb(self, *args, **kwargs)

    return named


class Verbs(Generic[R_co]):
    """Each verb, defined once; how it is executed is the subclass's."""

    def _execute(self, ask: Ask, options: Mapping[str, Any]) -> R_co:
        raise NotImplementedError

    @_named
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
            Before anything is sent: a wrong column, label, option, a colliding output, no key.
        Interrupted
            After Ctrl-C, with what was answered on `.frame`.

        Examples
        --------
        >>> import pandas as pd, pandas_llm
        >>> df = pd.DataFrame({"body": ["It crashes", "How do I log in?"]})
        >>> out = df.llm.classify("body", ["bug", "question"])  # doctest: +SKIP
        """
        from pandas_llm.prepare import Ask
        from pandas_llm.verbs import classify

        make = partial(classify.task, labels, multi_label=multi_label, explain=explain, confidence=confidence)
        flags = {"explain": explain, "confidence": confidence, "multi_label": multi_label}
        return self._execute(
            Ask("classify", text, output, instructions, examples, make, labels, flags), options
        )

    @_named
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

    @_named
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

    def embed(
        self, text: Any, /, *, output: str | None = None, model: str | None = None, **options: Any
    ) -> R_co:
        """A vector for each row: not yet here."""
        raise _not_yet("embed")

    def dedupe(self, text: Any, /, *, threshold: Any = "auto", guards: bool = True, **options: Any) -> R_co:
        """Groups of rows that say the same: not yet here."""
        raise _not_yet("dedupe")

    def similar(self, text: Any, /, query: str, *, k: int = 10) -> R_co:
        """The rows nearest to a query: not yet here."""
        raise _not_yet("similar")


def _not_yet(verb: str) -> OptionsError:
    return OptionsError(f"{verb}: not yet. classify, extract and generate work today.")


class _OfFrame(Verbs[R_co]):
    """Verbs over one frame. It keeps the frame only as long as the expression that made it."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self._frame = frame


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
        """The same verbs, sending nothing: rows, requests, tokens, cost and time as ranges."""
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
            `.coverage`, `.cost_per_right_label`.

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

    classify = without_text(Verbs[Coroutine[Any, Any, Out]].classify)
    extract = without_text(Verbs[Coroutine[Any, Any, Out]].extract)
    generate = without_text(Verbs[Coroutine[Any, Any, Out]].generate)


class EstimateSeriesVerbs(_SeriesDoor["Estimate"]):
    """`s.llm.estimate`: what the verbs would cost. Nothing is sent."""

    def _run(self, frame: pd.DataFrame, ask: Ask, options: Options, budget: Budget | None) -> Estimate:
        from pandas_llm import call

        run = partial(call.series_answer, frame, ask, options, budget)
        return replace(call.estimate(frame, ask, options, budget), _run=run)

    classify = without_text(Verbs["Estimate"].classify)
    extract = without_text(Verbs["Estimate"].extract)
    generate = without_text(Verbs["Estimate"].generate)


class SeriesLLM(_SeriesDoor[Out]):
    """`s.llm`: the verbs over a Series. One Series comes back, or a frame where there are more columns."""

    def _run(self, frame: pd.DataFrame, ask: Ask, options: Options, budget: Budget | None) -> Out:
        from pandas_llm import call

        return call.series_answer(frame, ask, options, budget)  # type: ignore[no-any-return]

    classify = without_text(Verbs[Out].classify)
    extract = without_text(Verbs[Out].extract)
    generate = without_text(Verbs[Out].generate)
    embed = without_text(Verbs[Out].embed)
    dedupe = without_text(Verbs[Out].dedupe)
    similar = without_text(Verbs[Out].similar)

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
  .estimate.<verb>(…)  .aio.<verb>(…)
Options: help(s.llm.classify), pandas_llm.configure()"""


@overload
def llm(data: pd.DataFrame) -> DataFrameLLM: ...
@overload
def llm(data: pd.Series[Any]) -> SeriesLLM: ...
def llm(data: pd.DataFrame | pd.Series[Any]) -> DataFrameLLM | SeriesLLM:
    """The same object as `df.llm`, typed: a type checker sees `df.llm` as `Any`.

    Examples
    --------
    >>> import pandas as pd, pandas_llm
    >>> pandas_llm.llm(pd.Series(["a text"])).estimate.generate("Translate.").rows
    1
    """
    if isinstance(data, pd.DataFrame):
        return DataFrameLLM(data)
    if isinstance(data, pd.Series):
        return SeriesLLM(data)
    raise TypeError(f"llm takes a DataFrame or a Series; got {type(data).__name__}.")


def _registered(owner: type, name: str) -> Any:
    """What stands under a name; pandas' own methods are never replaced."""
    there = inspect.getattr_static(owner, name, None)
    if there is None:
        return None
    theirs = getattr(there, "_accessor", there)
    theirs = getattr(theirs, "fget", theirs)
    if not hasattr(theirs, "__qualname__"):
        theirs = type(theirs)
    if theirs.__module__.split(".")[0] == "pandas":
        raise OptionsError(f"{owner.__name__}.{name} is pandas' own: register the verbs under another name.")
    return theirs


def register(name: str = "llm") -> None:
    """Make the verbs available as `df.<name>` and `s.<name>` too.

    Parameters
    ----------
    name : str, default "llm"
        The name; another package's accessor of that name is replaced, with a warning that names it.

    Raises
    ------
    OptionsError
        It is no name, or one of pandas' own.

    Examples
    --------
    >>> import pandas_llm
    >>> pandas_llm.register("ask")
    """
    if not name.isidentifier():
        raise OptionsError(f"register takes a name, as one writes it after a dot; got {name!r}.")
    found = [(owner, _registered(owner, name)) for owner in (pd.DataFrame, pd.Series)]
    for owner, theirs in found:
        if theirs is not None and theirs.__module__ != __name__:
            who = f"{theirs.__module__}.{theirs.__qualname__}"
            warnings.warn(
                f"{owner.__name__}.{name} was {who}; it is pandas_llm's now. "
                f'pandas_llm.register("ask") gives these verbs a name of their own.',
                LLMWarning,
                stacklevel=2,
            )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # pandas' own, which doesn't say who was there
        pd.api.extensions.register_dataframe_accessor(name)(DataFrameLLM)
        pd.api.extensions.register_series_accessor(name)(SeriesLLM)
    for owner, verbs in ((pd.DataFrame, DataFrameLLM), (pd.Series, SeriesLLM)):
        setattr(owner, name, _Accessor(verbs))


class _Accessor:
    """Makes the verbs anew at each access, as pandas 3 does.

    Pandas 2 keeps them on the frame, which they refer to: such a frame would live until the next collection.
    """

    def __init__(self, accessor: type[DataFrameLLM | SeriesLLM]) -> None:
        self._accessor = accessor

    def __get__(self, data: Any, owner: type) -> Any:
        return self._accessor if data is None else self._accessor(data)


_TEXT = re.compile(r"text : .*\n(    .*\n)+")
_RETURNS = re.compile(r"(?<=Returns\n-------\n)(.+\n)+")
_OF_SERIES = """Series or DataFrame
    One Series, named like the output, with this one's index; a DataFrame of the new columns where the call
    asks for more than one. Rows without an answer are counted in one `IncompleteWarning`.
"""


def _complete(verb: Any, of: Any, *, details: str, text: bool = True) -> None:
    """Give a verb the signature and the docstring that Shift-Tab shows: every option with its default."""
    own = [
        parameter
        for parameter in inspect.signature(of).parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD and (text or parameter.name != "text")
    ]
    shared = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=details if name == "details" else default_of(name),
            annotation=_annotation(name),
        )
        for name in RunOptions.__annotations__
    ]
    doc = inspect.getdoc(of) or ""
    if not text:
        doc = _TEXT.sub("", _RETURNS.sub(_OF_SERIES, doc))
    lines = (f"{p.name} : {p.annotation}, default {p.default!r}\n    {meaning_of(p.name)}" for p in shared)
    verb.__doc__ = doc.replace("**options\n    See below.", "\n".join(lines))
    verb.__signature__ = inspect.Signature([*own, *shared])


def _annotation(name: str) -> str:
    annotation = RunOptions.__annotations__[name]
    return str(getattr(annotation, "__forward_arg__", annotation))


def _complete_verbs() -> None:
    for name in ("classify", "extract", "generate"):
        verb = getattr(Verbs, name)
        for door in (SeriesLLM, AsyncSeriesVerbs, EstimateSeriesVerbs):
            _complete(getattr(door, name), verb, details="none", text=False)
        _complete(verb, verb, details="usage")


_complete_verbs()
