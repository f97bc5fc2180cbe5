"""The outside world: `http` opens connections, `store` writes SQL, nothing else does either."""
