"""The pandas edge: cells become texts, results become columns, and whose values are ours."""
