"""What to do about an error that ends a run, in a sentence that names the endpoint and the model."""

from __future__ import annotations

from pandas_llm.core.errors import ApiError, AuthError, EndpointError, ModelError, QuotaError
from pandas_llm.core.types import Question


def advised(error: ApiError, question: Question) -> ApiError:
    """The same error, with a second line that says what to do where no further request could succeed."""
    advice = _advice(error, question.base_url, question)
    if advice:
        error.args = (f"{error}\n{advice}",)
    return error


def _advice(error: ApiError, url: str, question: Question) -> str:
    model = repr(question.model)
    if isinstance(error, AuthError):
        return (
            f"{url} (model {model}) doesn't take this key: set OPENAI_API_KEY or "
            "pandas_llm.configure(api_key=…), or give a client= that has the right one."
            if error.status == 401
            else f"{url} refuses model {model} to this key: another model=, key or network may be right."
        )
    if isinstance(error, QuotaError):
        return (
            f"The account behind the key can't pay for model {model} at {url}: add credit or raise its limit "
            "there, then run the same line again. What is answered is kept."
        )
    if isinstance(error, ModelError):
        return (
            f"{url} has no model {model} for this key: say model= as the server lists it "
            "(on Azure, the name of your deployment)."
        )
    if not isinstance(error, EndpointError):
        return ""
    if error.status is None:
        return f"Is the server of model {model} running, and base_url {url} right?"
    return (
        f"Asked was {question.path} below base_url {url}, for model {model}: is that path right? "
        "Mostly it ends in /v1."
    )
