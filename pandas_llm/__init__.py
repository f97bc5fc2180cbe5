"""Label, extract and rewrite text columns of a DataFrame with an LLM: no row lost, nothing paid twice."""
