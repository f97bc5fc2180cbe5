"""The errors and warnings a user may catch, at the address the documentation gives."""

from pandas_llm.core.errors import *  # noqa: F403
from pandas_llm.core.errors import __all__  # noqa: F401
