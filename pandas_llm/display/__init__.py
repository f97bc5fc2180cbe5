"""How people see a run."""
